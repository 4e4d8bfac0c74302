"""CycleGAN: its networks against published counts and patches, its losses by hand, its pool, and that it translates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medgen.cyclegan import CycleGAN, Recipe, decayed, least_squares, make_generator, random_pieces
from medgen.errors import Cancelled
from medgen.jobs import Run
from medgen.nn.cyclegan import Generator, ImagePool, PatchGAN
from medgen.nn.unet import parameter_count
from medgen.training import Training

TINY = Recipe(width=4, blocks=1, discriminator_width=4, layers=1, pool=3, learning_rate=5e-3)


def a_run(folder: Path, **options: Any) -> Run:
    return Run(folder, device="cpu", precision="32", **options)


def test_networks_have_the_parameters_that_the_authors_program_prints() -> None:
    assert round(parameter_count(Generator()) / 1e6, 3) == 11.378
    assert round(parameter_count(PatchGAN()) / 1e6, 3) == 2.765


@pytest.mark.parametrize(("layers", "patch"), [(3, 70), (4, 142), (5, 286)])
def test_a_patch_of_the_discriminator_is_as_large_as_published(layers: int, patch: int) -> None:
    network = PatchGAN(1, 2, layers)
    plain = nn.Sequential(*[layer for layer in network.layers if not isinstance(layer, nn.InstanceNorm2d)])
    images = torch.randn(1, 1, 320, 320, requires_grad=True)
    judged = plain(images)
    judged[0, 0, judged.shape[2] // 2, judged.shape[3] // 2].backward()
    assert images.grad is not None
    seen = images.grad[0, 0].abs().sum(dim=0).nonzero().flatten()
    assert int(seen[-1] - seen[0]) + 1 == patch


def test_generators_keep_the_size_and_stay_within_minus_1_and_1() -> None:
    made = Generator(3, 3, 4, 1)(100 * torch.randn(2, 3, 24, 36))
    assert made.shape == (2, 3, 24, 36) and float(made.detach().abs().max()) <= 1


def test_least_squares_are_0_for_a_right_judgement_and_a_quarter_in_doubt() -> None:
    assert float(least_squares(torch.ones(1, 1, 2, 2), True)) == 0
    assert float(least_squares(torch.zeros(1, 1, 2, 2), False)) == 0
    assert float(least_squares(torch.full((1, 1, 2, 2), 0.5), True)) == 0.25


def test_the_step_size_is_constant_for_half_the_updates_and_then_falls_by_equal_steps() -> None:
    shares = [decayed(update, 8) for update in range(8)]
    np.testing.assert_allclose(shares, [1, 1, 1, 1, 1, 0.75, 0.5, 0.25])


# --- the pool


def test_a_pool_gives_images_back_until_it_is_full_and_then_holds_its_size() -> None:
    pool, random = ImagePool(3), np.random.default_rng(0)
    given = [float(pool.exchanged(torch.full((1, 1, 1, 1), float(n)), random)) for n in range(200)]
    assert given[:3] == [0, 1, 2] and len(pool.images) == 3
    own = np.mean([value == number for number, value in enumerate(given[3:], start=3)])
    assert 0.4 < own < 0.6  # half of them as they came, the others older
    assert all(value <= number for number, value in enumerate(given))
    assert len(set(given) | {float(image) for image in pool.images}) == 200  # none lost, none twice


def test_a_pool_of_size_0_gives_what_came() -> None:
    images = torch.randn(4, 1, 2, 2)
    assert torch.equal(ImagePool(0).exchanged(images, np.random.default_rng(0)), images)


def test_a_pool_goes_on_from_a_checkpoint() -> None:
    pool, other = ImagePool(2), ImagePool(2)
    pool.exchanged(torch.randn(2, 1, 2, 2), np.random.default_rng(0))
    other.load_state_dict(pool.state_dict())
    again = [one.exchanged(torch.zeros(5, 1, 2, 2), np.random.default_rng(3)) for one in (pool, other)]
    assert torch.equal(again[0], again[1])


# --- losses and training


class _Shift(nn.Module):
    """A generator that adds a number."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.tensor(by))

    def forward(self, images: Tensor) -> Tensor:
        return images + self.by


class _Says(nn.Module):
    """A discriminator that gives the mean."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(1, 2, 3), keepdim=True)


def test_losses_are_those_of_the_paper_worked_out_by_hand(tmp_path: Path) -> None:
    model = CycleGAN(Recipe(cycle=10, identity=0.5, width=4, blocks=1, discriminator_width=4, pool=0), a_run(tmp_path))
    model.generators = {"there": _Shift(0.3), "back": _Shift(-0.1)}  # type: ignore[dict-item]
    model.discriminators = {"there": _Says(), "back": _Says()}  # type: ignore[dict-item]
    a, b = torch.full((2, 3, 4, 4), 0.2), torch.full((2, 3, 4, 4), 0.5)
    made, losses = model.generator_losses(a, b)
    losses = {name: loss.detach() for name, loss in losses.items()}
    assert float(losses["adversarial"]) == pytest.approx((1 - 0.5) ** 2 + (1 - 0.4) ** 2)
    assert float(losses["cycle"]) == pytest.approx(10 * (0.2 + 0.2))  # both ways round: + 0.3 - 0.1
    assert float(losses["identity"]) == pytest.approx(5 * (0.3 + 0.1))
    judged = model.discriminator_loss(made, {"there": b, "back": a})
    right = 0.5 * ((1 - 0.5) ** 2 + 0.5**2) + 0.5 * ((1 - 0.2) ** 2 + 0.4**2)
    assert float(judged.detach()) == pytest.approx(right)


def test_generators_do_not_learn_by_the_discriminators_loss_nor_those_by_the_generators(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    model = CycleGAN(TINY, run)
    training = Training(run, model.parts())
    before = {name: [p.detach().clone() for p in d.parameters()] for name, d in model.discriminators.items()}
    seen: list[dict[str, list[Tensor]]] = []
    step = training.step

    def watched(loss: Tensor, *optimisers: torch.optim.Optimizer, weight: float = 1.0) -> float:
        if model.adam["discriminators"] in optimisers:
            assert all(p.grad is None for d in model.discriminators.values() for p in d.parameters())
        value = step(loss, *optimisers, weight=weight)
        seen.append({n: [p.detach().clone() for p in d.parameters()] for n, d in model.discriminators.items()})
        return value

    training.step = watched  # type: ignore[method-assign]
    a, b = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)
    model.update(training, a, b, 0, 1)
    assert all(torch.equal(x, y) for name in before for x, y in zip(before[name], seen[0][name], strict=True))
    assert any(not torch.equal(x, y) for name in before for x, y in zip(before[name], seen[1][name], strict=True))
    made = [g(a).detach() for g in model.generators.values()]
    loss = model.discriminator_loss({"there": made[0], "back": made[1]}, {"there": b, "back": a})
    loss.backward()
    assert all(p.grad is None for g in model.generators.values() for p in g.parameters())


def test_a_translation_learns_another_brightness_and_a_stopped_training_resumes_to_the_same(tmp_path: Path) -> None:
    """Dark noise becomes as bright as that of the other domain."""
    random = np.random.default_rng(0)
    a = [torch.from_numpy(random.uniform(-0.9, -0.3, (3, 32, 32))).float() for _ in range(4)]
    b = [image + 1.0 for image in a]

    def trained(folder: Path, stop: int | None, resume: bool = False) -> CycleGAN:
        run = a_run(folder, seed=1, resume=resume)
        model = CycleGAN(TINY, run)
        training = Training(run, model.parts())
        for update in training.stage("translator", 24):
            pieces = [random_pieces(training, pool, (32, 32), 1, model.random.numpy) for pool in (a, b)]
            model.update(training, pieces[0], pieces[1], update, 24)
            if update == stop:
                run.cancel()
        return model

    whole = trained(tmp_path / "whole", None)
    with torch.no_grad():
        made = whole.generators["there"](torch.stack(a))
    assert abs(float(made.mean()) - 0.4) < 0.25  # from -0.6
    with pytest.raises(Cancelled):
        trained(tmp_path / "stopped", 9)
    resumed = trained(tmp_path / "stopped", None, resume=True)
    for name, generator in whole.generators.items():
        for mine, theirs in zip(generator.parameters(), resumed.generators[name].parameters(), strict=True):
            assert torch.equal(mine, theirs)


def test_pieces_lie_anywhere_in_the_images_and_are_mirrored_by_half_a_chance(tmp_path: Path) -> None:
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(60.0), indexing="ij")
    training = Training(a_run(tmp_path), {})
    pieces = random_pieces(training, [torch.stack([rows, columns])], (8, 12), 200, np.random.default_rng(0))
    assert pieces.shape == (200, 2, 8, 12)
    steps = pieces[:, 1, 0, 1] - pieces[:, 1, 0, 0]
    assert 70 < int((steps < 0).sum()) < 130 and set(steps.tolist()) == {-1.0, 1.0}
    assert float(pieces[:, 0].min()) == 0 and float(pieces[:, 0].max()) == 39
    assert float(pieces[:, 1].min()) == 0 and float(pieces[:, 1].max()) == 59


def test_a_recipe_decides_the_generators_size() -> None:
    assert parameter_count(make_generator(TINY)) == parameter_count(Generator(3, 3, 4, 1))
