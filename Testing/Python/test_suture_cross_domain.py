"""The method: its losses against closed forms, its peak rules, its three schemes, files, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from method_tools import a_run, as_image, configured, least_seconds, said
from suture_tools import case, points_at, pool
from torch.distributions import Bernoulli, kl_divergence

from medgen import bundle, catalog, execute, io, markups, phantoms
from medgen.case import Case, Image, Points
from medgen.errors import Cancelled, UserError
from medgen.jobs import Event, Run
from medgen.landmarks import suture_cross_domain
from medgen.landmarks.suture_cross_domain import (
    FIRST_RULE,
    ApplyConfig,
    Fit,
    HeatmapNetwork,
    SutureCrossDomain,
    TrainConfig,
    divergence,
    domain_loss,
    points_of,
    squared_error,
)
from medgen.metrics.points import matched
from medgen.nn.heatmaps import gaussians, together
from medgen.phantoms import annulus
from medgen.pointframes import over_all
from medgen.training import drawn

METHOD = SutureCrossDomain()
TRAIN, APPLY = METHOD.operation("train"), METHOD.operation("apply")
TINY: dict[str, Any] = {
    "rows": 64, "columns": 64, "hrnet_width": 2, "resnet_width": 8, "features": 4, "batch_size": 2, "rotation": 10.0,
    "adversary_width": 4,
}  # fmt: skip


def train_config(**settings: Any) -> TrainConfig:
    return configured(TrainConfig, TRAIN, "smoke", {**TINY, "updates": 3, "validate_every": 2, **settings})


def apply_config(**settings: Any) -> ApplyConfig:
    return configured(ApplyConfig, APPLY, "demo", settings)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bundle.Model:
    """Trained for seconds on bright dots."""
    config = train_config(
        updates=60, validate_every=60, backbone="deeplabv3+-small", features=16, batch_size=4, learning_rate=1e-2
    )
    theatre = [*pool(range(10)), *pool(range(20, 22), count=0), *pool(range(30, 33), split="validation")]
    return METHOD.fit(theatre, pool(range(40, 46), look=60.0), config, a_run(tmp_path_factory.mktemp("model")))


def test_a_canvas_too_small_for_the_discriminator_is_refused(tmp_path: Path) -> None:
    config = train_config(rows=32, columns=64, scheme="adversarial")
    with pytest.raises(UserError, match="give 64 or more of each"):
        METHOD.fit(pool(range(4)), pool(range(4)), config, a_run(tmp_path))
    config = train_config(rows=64, columns=64, scheme="adversarial", updates=1, validate_every=1)
    METHOD.fit(pool(range(4), size=(64, 64)), pool(range(4), size=(64, 64)), config, a_run(tmp_path / "enough"))


# --- losses


def test_the_squared_error_is_summed_over_pixels_and_averaged_over_frames() -> None:
    found, heatmap = torch.rand(3, 1, 4, 5), torch.rand(3, 1, 4, 5)
    assert float(squared_error(found, heatmap)) == pytest.approx(float(((found - heatmap) ** 2).sum()) / 3, rel=1e-5)


def test_the_domain_loss_is_the_negative_logarithm_of_what_the_discriminator_believes() -> None:
    believed = torch.tensor([0.2, 0.7, 0.9, 0.5]).reshape(1, 1, 2, 2)
    logits = torch.log(believed / (1 - believed))
    assert float(domain_loss(logits, True)) == pytest.approx(-float(torch.log(believed).sum()), rel=1e-5)
    assert float(domain_loss(logits, False)) == pytest.approx(-float(torch.log(1 - believed).sum()), rel=1e-5)


def test_the_divergence_is_torchs_of_bernoulli_distributions_0_for_equal_maps_and_above_it_else() -> None:
    teacher, student = torch.randn(2, 1, 4, 5), torch.randn(2, 1, 4, 5)
    theirs = kl_divergence(Bernoulli(logits=teacher), Bernoulli(logits=student)).sum() / 2
    assert float(divergence(teacher, student, "bernoulli")) == pytest.approx(float(theirs), rel=1e-4)
    assert float(divergence(teacher, teacher, "bernoulli")) == pytest.approx(0, abs=1e-6)


def test_equation_6_as_printed_has_the_first_term_alone_and_falls_below_0() -> None:
    teacher, student = torch.randn(2, 1, 4, 5), torch.randn(2, 1, 4, 5)
    p, q = torch.sigmoid(teacher), torch.sigmoid(student)
    expected = float((-p * torch.log(q / p)).sum()) / 2
    assert float(divergence(teacher, student, "printed")) == pytest.approx(expected, rel=1e-4)
    assert float(divergence(teacher, torch.full_like(teacher, 30.0), "printed")) < 0


def test_the_teacher_does_not_learn_by_what_it_teaches() -> None:
    teacher, student = (torch.randn(1, 1, 3, 3, requires_grad=True) for _ in range(2))
    divergence(teacher, student, "bernoulli").backward()
    assert teacher.grad is None and student.grad is not None


# --- peaks


def heat(places: list[tuple[float, float]], heights: list[float]) -> torch.Tensor:
    points = torch.tensor(places, dtype=torch.float64)
    return together(gaussians(points, (60, 80), 2.0) * torch.tensor(heights)[:, None, None])


PLACES = [(10.0 + 12 * (n // 6), 8.0 + 12 * (n % 6)) for n in range(18)]


@pytest.mark.parametrize(("above", "below", "fewest", "most", "expected"), [
    (6, 4, 4, 10, 6),  # by score
    (14, 0, 4, 10, 10),  # the upper bound
    (2, 6, 4, 10, 4),  # the lower bound
    (1, 2, 4, 10, 3),  # there are no more
    (14, 4, 10, 30, 14),  # the first rule
    (3, 12, 10, 30, 10),
    (0, 5, 0, 10, 0),
])  # fmt: skip
def test_the_number_of_points_is_by_score_within_bounds(
    above: int, below: int, fewest: int, most: int, expected: int
) -> None:
    heights = [0.9 - 0.04 * n for n in range(above)] + [0.09 - 0.002 * n for n in range(below)]
    heatmap = heat(PLACES[: len(heights)], heights)
    found, scores = points_of(heatmap, apply_config(fewest=fewest, most=most))
    assert len(found) == expected
    np.testing.assert_allclose(scores, heights[:expected], atol=1e-3)
    np.testing.assert_allclose(found, np.array(PLACES[:expected]).reshape(-1, 2), atol=1e-3)


def test_no_peak_below_the_floor_is_taken_even_to_reach_the_lower_bound() -> None:
    heatmap = heat(PLACES[:6], [0.5, 0.05, 0.02, 0.02, 0.02, 0.02])
    assert len(points_of(heatmap, apply_config())[0]) == 2
    assert len(points_of(heatmap, apply_config(floor=0.0))[0]) == 4
    assert points_of(torch.zeros(20, 30), apply_config(floor=0.0))[0].shape == (0, 2)
    assert points_of(torch.full((20, 30), -0.3), apply_config(floor=0.0))[0].shape == (0, 2)


def test_of_two_peaks_within_the_window_the_higher_one_counts() -> None:
    heatmap = torch.zeros(20, 20)
    heatmap[10, 10], heatmap[10, 13] = 0.8, 0.7
    assert len(points_of(heatmap, apply_config(window=5))[0]) == 2
    found, scores = points_of(heatmap, apply_config(window=7))
    assert found.tolist() == [[10, 10]] and scores[0] == pytest.approx(0.8)


def test_the_first_rule_is_that_of_table_1() -> None:
    assert apply_config(**FIRST_RULE).model_dump() == {**apply_config().model_dump(), "fewest": 10, "most": 30}
    assert (apply_config().fewest, apply_config().most, apply_config().least_score) == (4, 10, 0.1)


# --- networks


@pytest.mark.parametrize("backbone", ["hrnet", "hrnet-small", "deeplabv3+", "deeplabv3+-small"])
def test_every_backbone_gives_a_map_of_the_frames_size_that_starts_near_0_and_learns(backbone: str) -> None:
    network = HeatmapNetwork(train_config(backbone=backbone))
    frames = torch.randn(2, 3, 64, 96)
    assert network.features(frames).shape == (2, 4, 16, 24)
    found = network(frames)
    assert found.shape == (2, 1, 64, 96) and float(found.detach().abs().max()) < 0.1
    squared_error(found, torch.rand(2, 1, 64, 96)).backward()
    assert all(p.grad is not None for p in network.parameters())


# --- training


def weights_after(fit: Fit, name: str) -> dict[str, torch.Tensor]:
    fit.fit()
    return {key: value.clone() for key, value in fit.networks[name].state_dict().items()}


def test_lambda_0_does_not_look_at_the_simulator_and_1_does(tmp_path: Path) -> None:
    runs = {}
    for weight, look in ((0.0, 0.0), (0.0, 90.0), (1.0, 0.0), (1.0, 90.0)):
        fit = Fit(pool(range(4)), pool(range(9, 12), look=look), train_config(simulator_weight=weight),
                  a_run(tmp_path / f"{weight}{look}"))  # fmt: skip
        runs[weight, look] = weights_after(fit, "theatre")["head.weight"]
    assert torch.equal(runs[0.0, 0.0], runs[0.0, 90.0]) and not torch.equal(runs[1.0, 0.0], runs[1.0, 90.0])


@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_the_simulators_error_counts_lambda_times(weight: float, tmp_path: Path) -> None:
    fit = Fit(pool(range(2)), pool(range(2, 4)), train_config(simulator_weight=weight), a_run(tmp_path))
    found, maps = torch.rand(4, 1, 8, 8), torch.rand(4, 1, 8, 8)
    expected = squared_error(found[:2], maps[:2]) + weight * squared_error(found[2:], maps[2:])
    assert float(fit._weighted(found, maps, 2)) == pytest.approx(float(expected), rel=1e-6)


def test_the_discriminator_learns_to_tell_domains_that_differ(tmp_path: Path) -> None:
    config = train_config(
        scheme="adversarial", updates=20, adversary_weight=0.0, adversary_rate=3e-3, learning_rate=1e-6
    )
    events: list[Event] = []
    Fit(pool(range(4)), pool(range(9, 12), look=150.0), config, a_run(tmp_path, events)).fit()
    losses = [e["value"] for e in events if e.get("name") == "discriminator loss"]
    assert len(losses) == 20 and losses[-1] < 0.75 * losses[0]


def test_the_network_learns_to_deceive_the_discriminator_which_does_not_learn_by_it(tmp_path: Path) -> None:
    fit = Fit(pool(range(2)), pool(range(2, 4)), train_config(scheme="adversarial"), a_run(tmp_path))
    judge = [parameter.detach().clone() for parameter in fit.judge.parameters()]
    calls: list[bool] = []
    step = fit.training.step

    def watched(loss: torch.Tensor, *optimisers: torch.optim.Optimizer, weight: float = 1.0) -> float:
        if fit.judge_adam in optimisers:
            assert all(parameter.grad is None for parameter in fit.judge.parameters())
        value = step(loss, *optimisers, weight=weight)
        same = all(torch.equal(a, b) for a, b in zip(judge, fit.judge.parameters(), strict=True))
        calls.append(same)
        return value

    fit.training.step = watched  # type: ignore[method-assign]
    fit.fit()
    assert calls[:2] == [True, False]


def test_of_collaborative_training_the_theatres_network_is_kept_and_each_learns_from_the_other(tmp_path: Path) -> None:
    theatre, simulator = pool(range(4)), pool(range(9, 12), look=90.0)
    kept = {}
    for weight in (0.0, 5.0):
        config = train_config(scheme="collaborative", divergence_weight=weight)
        fit = Fit(theatre, simulator, config, a_run(tmp_path / str(weight)))
        kept[weight] = fit.fit()["head.weight"].clone(), fit.networks["simulator"].head.weight.detach().clone()  # type: ignore[union-attr]
        assert torch.equal(kept[weight][0], fit.networks["theatre"].head.weight.detach())  # type: ignore[union-attr, arg-type]
    assert not torch.equal(kept[0.0][0], kept[5.0][0]) and not torch.equal(kept[0.0][1], kept[5.0][1])


@pytest.mark.parametrize("scheme", ["joint", "adversarial", "collaborative"])
def test_a_stopped_training_resumes_to_the_same_model(scheme: str, tmp_path: Path) -> None:
    theatre = [*pool(range(4)), *pool(range(5, 6), split="validation")]
    simulator, config = pool(range(6, 8), look=60.0), train_config(scheme=scheme)

    def stop(event: Event) -> None:
        if event.get("name") == "loss" and event["step"] == 1:
            run.cancel()

    whole = Fit(theatre, simulator, config, a_run(tmp_path / "whole")).fit()
    run = Run(tmp_path / "cut", device="cpu", precision="32", emit=stop)
    with pytest.raises(Cancelled):
        Fit(theatre, simulator, config, run).fit()
    resumed = Fit(theatre, simulator, config, a_run(tmp_path / "cut", resume=True)).fit()
    assert all(torch.equal(tensor, resumed[key]) for key, tensor in whole.items())


def test_dots_of_unseen_frames_are_found_and_a_frame_without_any_gives_an_empty_list(
    model: bundle.Model, tmp_path: Path
) -> None:
    pairs = []
    for seed in range(50, 54):
        unseen = case(seed)
        found = METHOD.apply(unseen, apply_config(fewest=0), a_run(tmp_path), model).get("points", Points)
        pairs.append(matched(found.positions, unseen.get("points", Points).positions, 2.0))
        assert found.confidence is not None and ((found.confidence >= 0) & (found.confidence <= 1)).all()
    total = over_all(pairs)
    assert total.hits >= 14 and total.found - total.hits <= 4
    empty = METHOD.apply(case(60, count=0), apply_config(fewest=0), a_run(tmp_path), model)
    assert empty.get("points", Points).positions.shape == (0, 3)


# --- files, declarations, what is refused


def test_a_model_is_trained_from_files_and_marks_a_frame_of_another_size(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    phantoms.write(phantoms.PHANTOMS["annulus"], 10, 1, folder, size=(64, 36))
    config, source = train_config(updates=2), folder / "collection.json"
    made = execute.perform(METHOD, TRAIN, config, a_run(tmp_path / "run"), tmp_path / "model", collection=source)
    loaded = bundle.load(made[0][1])
    assert loaded.facts["frames of the theatre"] == 3 and loaded.facts["frames of the simulator"] == 3
    estimate = execute.estimate(METHOD, TRAIN, config, a_run(tmp_path / "e"), collection=source)
    alone = execute.estimate(
        METHOD, TRAIN, config.model_copy(update={"simulator_weight": 0.0}), a_run(tmp_path / "e"), collection=source
    )
    assert alone.memory_bytes < estimate.memory_bytes
    image = next(folder.glob("*_image.png"))
    execute.perform(METHOD, APPLY, apply_config(floor=0.0), a_run(tmp_path / "a"), tmp_path / "points.mrk.json",
                    files=[{"image": [str(image)]}], model=loaded)  # fmt: skip
    found = markups.read(tmp_path / "points.mrk.json", suture_cross_domain.pointframes.FOUND)[0]
    assert (np.abs(found.positions[:, :2]) <= (64, 36)).all()


def test_a_plain_table_is_the_theatre_alone_and_the_log_says_so(tmp_path: Path) -> None:
    events: list[Event] = []
    METHOD.fit(pool(range(3)), [], train_config(updates=1), a_run(tmp_path, events))
    assert "the network learns from the theatre's alone" in said(events)


@pytest.mark.parametrize("scheme", ["adversarial", "collaborative"])
def test_schemes_that_need_a_simulator_refuse_without_one(scheme: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"“scheme” is {scheme}, which needs frames of a simulator; give a pool"):
        Fit(pool(range(2)), [], train_config(scheme=scheme), a_run(tmp_path))


def test_pools_without_points_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No training frame of pool “theatre” has a point to learn from"):
        Fit(pool(range(2), count=0), pool(range(2)), train_config(), a_run(tmp_path))
    with pytest.raises(UserError, match="No training frame of pool “simulator” has a point to learn from"):
        Fit(pool(range(2)), pool(range(2), count=0), train_config(), a_run(tmp_path))


@pytest.mark.parametrize(("changes", "message"), [
    ({"features": 10**9}, "has a record that cannot be used"),
    ({"backbone": "vgg"}, "has a record that cannot be used"),
    ({"features": 32}, "has weights that do not fit its network “network”"),
])  # fmt: skip
def test_a_strangers_model_is_refused_in_one_sentence(
    changes: dict[str, Any], message: str, model: bundle.Model, tmp_path: Path
) -> None:
    strange = bundle.Model(model.slug, model.networks, {**model.config, **changes}, name="strange")
    with pytest.raises(UserError, match=message):
        METHOD.apply(case(0), apply_config(), a_run(tmp_path), strange)


def test_a_picture_with_five_channels_is_refused(model: bundle.Model, tmp_path: Path) -> None:
    odd = case(0)
    odd.values["image"] = Image(torch.rand(5, 20, 20), np.eye(4), "odd")
    with pytest.raises(UserError, match="“odd” has 5 channels"):
        METHOD.apply(odd, apply_config(), a_run(tmp_path), model)


@pytest.mark.alone
@pytest.mark.parametrize("backbone", ["hrnet-small", "deeplabv3+-small"])
def test_a_frame_of_512_by_288_is_looked_at_within_half_a_second(backbone: str, tmp_path: Path) -> None:
    """Of a processor's time, with a network of the demo tier at that size."""
    config = configured(TrainConfig, TRAIN, "demo", {"rows": 288, "columns": 512, "backbone": backbone})
    weights = drawn(0, lambda: HeatmapNetwork(config)).state_dict()
    weights["head.bias"] += 1  # so that an untrained network has peaks above the floor
    ready = bundle.Model(METHOD.slug, {"network": weights}, config.model_dump(mode="json"), {}, {})
    frame, run = Case({"image": as_image(annulus.make(1)["image"])}), a_run(tmp_path)
    assert len(METHOD.apply(frame, apply_config(), run, ready)["points"].names) == 10
    assert least_seconds(lambda: METHOD.apply(frame, apply_config(), run, ready)) <= 0.5


def test_applying_is_estimated_for_each_frame(model: bundle.Model, tmp_path: Path) -> None:
    one, ten = (METHOD.estimate(APPLY, [case(0)] * n, apply_config(), a_run(tmp_path), model) for n in (1, 10))
    assert one.seconds < ten.seconds < 60


def test_the_catalog_has_the_papers_numbers() -> None:
    known = {
        setting["name"]: setting.get("paper")
        for name in ("train", "apply")
        for setting in catalog.operation_entry("suture-cross-domain", name)["settings"]
    }
    wanted = {
        "sigma": 5.0, "radius": 24.0, "learning_rate": 5e-5, "weight_decay": 1e-4, "adversary_weight": 1.0,
        "divergence_weight": 0.1, "adversary_rate": 1e-5, "fewest": 4, "most": 10, "least_score": 0.1,
    }  # fmt: skip
    assert {name: known[name] for name in wanted} == wanted


def test_points_of_a_case_without_any_measure_as_they_are(tmp_path: Path) -> None:
    empty = case(0, count=0)
    assert METHOD.measure(empty, empty)["F1"] == 1
    io.write(points_at([(3, 4)]), suture_cross_domain.pointframes.POINTS.kind, tmp_path / "one.mrk.json")
    again = markups.read(tmp_path / "one.mrk.json", suture_cross_domain.pointframes.POINTS)[0]
    np.testing.assert_allclose(again.positions, [[-3, -4, 0]])
