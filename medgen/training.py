"""The engine every method trains through: device and precision, named stages, checkpoints, exact resume.

    training = Training(run, {"unet": unet, "adam": adam, "random": random})
    for step in training.stage("fit", config.steps):
        with training.autocast():
            loss = …
        training.step(loss, adam)

Each part is anything with `state_dict()` and `load_state_dict()`: networks, optimisers, EMAs, image pools, cluster
assignments, random generators (`Randomness`), a best-so-far (`Best`). A run that is stopped at any moment and started
again with `resume` gives the same parts as one that was never stopped, because a checkpoint holds every part and the
global random state at the end of a step, and a stage goes on with the step after it.

Several processes (`torchrun`; `medgen.ranks`, docs/several-gpus.md) train one model as one process would with a batch
as large as theirs together: `batch` or `part` gives each its share of the same samples, and `step` averages losses and
gradients over the processes. The networks stay plain modules, and one message an update holds all gradients; wrapped in
DistributedDataParallel, a method could not take turns with several networks and optimisers, leave weights without a
gradient, and hold averages and state dicts, all as in one process. What one process can do for all (validation) goes
through `alone`. Checkpoints are written by rank 0. The learning rate stays as configured.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from medgen import ranks
from medgen.errors import Cancelled, UserError
from medgen.jobs import Run

CHECKPOINT = "checkpoint.pt"
Result = TypeVar("Result")
Network = TypeVar("Network", bound=nn.Module)


def drawn(seed: int, build: Callable[[], Network]) -> Network:
    """The network that `build` makes, its weights drawn by the seed; torch's global random numbers stay as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def placed(network: Network, run: Run, layout: torch.memory_format = torch.channels_last) -> Network:
    """The network on the run's device, its channels last (`layout`, for volumes torch.channels_last_3d)."""
    return network.to(run.device, memory_format=layout)  # type: ignore[call-overload]


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Go on with another step size."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def look_due(step: int, every: int, steps: int) -> bool:
    """Whether to look at the validation cases after step `step` (from 0) of `steps`: every so often, and at the end."""
    return (step + 1) % every == 0 or step + 1 == steps


class Stateful(Protocol):
    """What a checkpoint can hold."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Any) -> Any: ...


class Randomness:
    """The random numbers of a run: one numpy and one torch (CPU) generator that a checkpoint can hold."""

    def __init__(self, seed: int) -> None:
        self.numpy = np.random.default_rng(seed)
        self.torch = torch.Generator().manual_seed(seed)

    def state_dict(self) -> dict[str, Any]:
        """Both generators' states, as plain data."""
        state = self.numpy.bit_generator.state
        inner = {key: str(value) for key, value in state["state"].items()}  # 128-bit integers
        return {"torch": self.torch.get_state(), "numpy": {**state, "state": inner}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the states were taken."""
        inner = {key: int(value) for key, value in state["numpy"]["state"].items()}
        self.numpy.bit_generator.state = {**state["numpy"], "state": inner}
        self.torch.set_state(state["torch"])


class Best:
    """The best network seen so far by a validation measure (higher is better)."""

    def __init__(self) -> None:
        self.value = float("-inf")
        self.step = -1
        self.weights: dict[str, Tensor] = {}

    def offer(self, value: float, step: int, network: nn.Module) -> bool:
        """Keep a copy of the network's weights if `value` beats what was seen; whether it did."""
        if value <= self.value:
            return False
        self.value, self.step = value, step
        self.weights = {key: tensor.detach().clone() for key, tensor in network.state_dict().items()}
        return True

    def kept(self, network: nn.Module) -> dict[str, Tensor]:
        """The best weights; those that the network has, where nothing was ever offered."""
        return self.weights or {key: tensor.detach().clone() for key, tensor in network.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """Measure, step and weights."""
        return {"value": self.value, "step": self.step, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what `state_dict` gave."""
        self.value, self.step, self.weights = state["value"], state["step"], state["weights"]


class Patience:
    """Whether the validation loss has risen too often in a row."""

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.risen = 0
        self.over = False

    def note(self, better: bool) -> None:
        """One look: was the loss lower than ever?"""
        self.risen = 0 if better else self.risen + 1
        self.over = self.risen > self.patience

    def state_dict(self) -> dict[str, Any]:
        """How often it has risen."""
        return {"risen": self.risen, "over": self.over}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what `state_dict` gave."""
        self.risen, self.over = state["risen"], state["over"]


class EMA:
    """Exponential moving average of a network's weights (buffers are copied); `network` holds the average."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        import copy

        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """average <- decay average + (1 - decay) weights."""
        for mine, theirs in zip(self.network.parameters(), network.parameters(), strict=True):
            mine.lerp_(theirs, 1.0 - self.decay)
        for average, latest in zip(self.network.buffers(), network.buffers(), strict=True):
            average.copy_(latest)

    def state_dict(self) -> dict[str, Any]:
        """The averaged network's state."""
        return self.network.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what `state_dict` gave."""
        self.network.load_state_dict(state)


class Training:
    """One training run over named parts; see the module's docstring."""

    def __init__(self, run: Run, parts: dict[str, Stateful], *, checkpoint_seconds: float = 60.0) -> None:
        self.run = run
        self.parts = parts
        self._seconds = checkpoint_seconds
        self._finished: dict[str, int] = {}
        self._fabric = ranks.fabric(run.device, run.precision)
        for part in parts.values():
            if isinstance(part, nn.Module):
                part.to(run.device)
        if run.resume or self.processes > 1:
            self._load()

    @property
    def processes(self) -> int:
        """How many processes train together; an update sees as many batches."""
        return ranks.count()

    @property
    def path(self) -> Any:
        """Where the checkpoint lies."""
        return self.run.folder / CHECKPOINT

    def autocast(self) -> AbstractContextManager[Any]:
        """The run's precision for a forward pass."""
        return self._fabric.autocast()

    def batch(self, size: int, draw: Callable[[int], Sequence[Callable[[], Result]]]) -> list[Result]:
        """This process's samples of the next update, `size` of them.

        draw: draws the random numbers of so many samples, and gives for each a function that makes it. It is called
        alike in all processes, for the samples of all, so that their random states stay in step; each then makes its
        own, which lie side by side in the order of ranks.
        """
        made = draw(size * self.processes)
        return [make() for make in made[ranks.number() * size : (ranks.number() + 1) * size]]

    def part(self, total: int) -> tuple[slice, int]:
        """Which of `total` samples, made alike in all processes, are this one's, and what its loss weighs in `step`.

        A process for which none is left takes the first, with weight 0: it still has to take part in the update.
        """
        begin, end = (total * number // self.processes for number in (ranks.number(), ranks.number() + 1))
        return (slice(begin, end), end - begin) if end > begin else (slice(0, 1), 0)

    def gathered(self, values: Tensor) -> Tensor:
        """(n, ...) of this process -> (processes x n, ...) of all, for losses that couple a batch's samples.

        A loss of what this gives, the same in all processes, is that of the whole batch, and so is its gradient after
        `step` with equal weights. In one process the values themselves.
        """
        return ranks.gathered(values)

    def alone(self, work: Callable[[], Result]) -> Result:
        """What `work` gives in rank 0, for all processes: numbers, strings, lists of them. The others wait."""
        return ranks.from_first(work)

    def look(self, name: str, measure: Callable[[], float], step: int, network: nn.Module, best: Best) -> None:
        """Tell a validation measure (higher is better) after `step` steps; the network is kept if it is the best."""
        value = self.alone(measure)
        self.run.metric(name, value, step)
        best.offer(value, step, network)

    def step(self, loss: Tensor, *optimisers: torch.optim.Optimizer, weight: float = 1.0) -> float:
        """Back-propagate, update and clear the gradients; the loss as a number, a mean over all processes.

        weight: how many samples, pixels … this process's loss is the mean of, where the processes may differ.
        Raises UserError when the loss is not a finite number: going on would only spoil the model.
        """
        value, share = ranks.mean(float(loss.detach()), weight)
        if not np.isfinite(value):
            raise UserError(
                "The training diverged (its loss is not a finite number); lower the learning rate or check the images."
            )
        self._fabric.backward(loss)
        learnt = [one for optimiser in optimisers for group in optimiser.param_groups for one in group["params"]]
        networks = [part for part in self.parts.values() if isinstance(part, nn.Module)]
        ranks.average_gradients(learnt, [one for network in networks for one in network.buffers()], share)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        return value

    def stage(self, name: str, steps: int) -> Iterator[int]:
        """The steps of a stage that are still to do; reports progress, saves checkpoints, obeys cancellation.

        A finished stage gives nothing. The checkpoint is written after a whole step, so code in the loop's body runs
        once for every step, whatever happens.
        """
        first = self._finished.get(name, 0)
        saved = time.monotonic()
        for step in range(first, steps):
            if ranks.any_of(self.run.cancelled):
                self.save()
                raise Cancelled("The run was cancelled; it goes on where it stood with --resume.")
            self.run.tell_progress(step, steps, name)
            yield step
            self._finished[name] = step + 1
            if time.monotonic() - saved > self._seconds:
                self.save()
                saved = time.monotonic()
        if first < steps:
            self.run.tell_progress(steps, steps, name)
            self.save()

    def save(self) -> None:
        """Write every part and the global random state, whole or not at all; rank 0 does it for all."""
        if not ranks.first():
            return
        self.run.folder.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        try:
            torch.save(self._state(), partial)
            os.replace(partial, self.path)
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            raise UserError(
                f"Checkpoint {self.path} cannot be written ({error}); free some disk space and resume."
            ) from None

    def _state(self) -> dict[str, Any]:
        return {
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
            "finished": dict(self._finished),
            "random": torch.get_rng_state(),
            "cuda": [torch.cuda.get_rng_state(self.run.device)] if self.run.device.type == "cuda" else [],
        }

    def _load(self) -> None:
        """Take every part and the random states from the checkpoint; several processes take them from rank 0, which
        has read it or, in a new run, as they stand there."""
        resumes = ranks.from_first(lambda: self.run.resume and self.path.exists())
        if self.run.resume and not resumes:
            self.run.log("There is no checkpoint to resume from; training starts from the beginning.")
        if not resumes and self.processes == 1:
            return
        source = self.path if self.processes == 1 else io.BytesIO(ranks.from_first(lambda: self._sent(resumes)))
        try:
            state = torch.load(source, map_location="cpu", weights_only=True)
            for name, part in self.parts.items():
                part.load_state_dict(state["parts"][name])
        except Exception as error:
            raise UserError(
                f"Checkpoint {self.path} does not fit this training ({error}); start without --resume."
            ) from None
        self._finished = dict(state["finished"])
        torch.set_rng_state(state["random"])
        if state["cuda"] and self.run.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"][0], self.run.device)
        if resumes:
            stood = ", ".join(f"{stage} at step {step}" for stage, step in self._finished.items())
            self.run.log(f"Resumed: {stood}.")

    def _sent(self, resumes: bool) -> bytes:
        """What rank 0 sends to all: the checkpoint's bytes, or those that one would have now."""
        if resumes:
            return bytes(self.path.read_bytes())
        buffer = io.BytesIO()
        torch.save(self._state(), buffer)
        return buffer.getvalue()
