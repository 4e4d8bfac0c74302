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
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from medgen.errors import Cancelled, UserError
from medgen.jobs import Run

CHECKPOINT = "checkpoint.pt"


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
        from lightning_fabric import Fabric

        self.run = run
        self.parts = parts
        self._seconds = checkpoint_seconds
        self._finished: dict[str, int] = {}
        precision = "bf16-mixed" if run.precision == "bf16" else "32-true"
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces the precision on the terminal
        self._fabric = Fabric(accelerator=run.device.type, devices=1, precision=precision)  # type: ignore[arg-type]
        for part in parts.values():
            if isinstance(part, nn.Module):
                part.to(run.device)
        if run.resume:
            self._load()

    @property
    def path(self) -> Any:
        """Where the checkpoint lies."""
        return self.run.folder / CHECKPOINT

    def autocast(self) -> AbstractContextManager[Any]:
        """The run's precision for a forward pass."""
        return self._fabric.autocast()

    def step(self, loss: Tensor, *optimisers: torch.optim.Optimizer) -> float:
        """Back-propagate, update and clear the gradients; the loss as a number.

        Raises UserError when the loss is not a finite number: going on would only spoil the model.
        """
        value = float(loss.detach())
        if not np.isfinite(value):
            raise UserError(
                "The training diverged (its loss is not a finite number); lower the learning rate or check the images."
            )
        self._fabric.backward(loss)
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
            try:
                self.run.progress(step, steps, name)
            except Cancelled:
                self.save()
                raise Cancelled("The run was cancelled; it goes on where it stood with --resume.") from None
            yield step
            self._finished[name] = step + 1
            if time.monotonic() - saved > self._seconds:
                self.save()
                saved = time.monotonic()
        if first < steps:
            self.run.progress(steps, steps, name)
            self.save()

    def save(self) -> None:
        """Write every part and the global random state, whole or not at all."""
        self.run.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
            "finished": dict(self._finished),
            "random": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if self.run.device.type == "cuda" else [],
        }
        partial = self.path.with_suffix(".partial")
        try:
            torch.save(state, partial)
            os.replace(partial, self.path)
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            raise UserError(
                f"Checkpoint {self.path} cannot be written ({error}); free some disk space and resume."
            ) from None

    def _load(self) -> None:
        if not self.path.exists():
            self.run.log("There is no checkpoint to resume from; training starts from the beginning.")
            return
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            for name, part in self.parts.items():
                part.load_state_dict(state["parts"][name])
        except Exception as error:
            raise UserError(
                f"Checkpoint {self.path} does not fit this training ({error}); start without --resume."
            ) from None
        self._finished = dict(state["finished"])
        torch.set_rng_state(state["random"])
        if state["cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda"])
        self.run.log(f"Resumed: {', '.join(f'{stage} at step {step}' for stage, step in self._finished.items())}.")
