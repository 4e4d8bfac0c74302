"""What is done when memory does not suffice: smaller windows, then the CPU, and a sentence about each step.

A setting that says how much is looked at at once, so that a smaller value needs less memory and changes nothing but the
tiling, is marked `memory_window(…)`; one that a person may lower where a training does not fit, `lowers_memory()`.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from medgen import resources, windows
from medgen.errors import OutOfMemory
from medgen.jobs import Run, choose_precision
from medgen.method import Config, Kind, Operation

if TYPE_CHECKING:
    from medgen.bundle import Model

Result = TypeVar("Result")


def fits(work: Callable[[], Result]) -> tuple[Result | None, bool]:
    """What `work` gives and True; None and False where the GPU's or the machine's memory did not suffice."""
    try:
        return work(), True
    except (torch.OutOfMemoryError, MemoryError):
        return None, False
    except RuntimeError as error:
        if "not enough memory" not in str(error) and "out of memory" not in str(error):
            raise
        return None, False


@dataclass
class Rescue:
    """How an operation is carried out within the memory there is.

    config, run.device and run.precision are what worked last, so that the next case starts with them. changes: a
    sentence for each step away from what was asked.
    """

    operation: Operation
    config: Config
    run: Run
    model: Model | None = None
    changes: list[str] = field(default_factory=list)

    def perform(self, work: Callable[[Config], Result]) -> Result:
        """Call `work` with the config, and again with less where memory does not suffice.

        Every call starts from the run's seed. Raises OutOfMemory, a sentence with the remedy, when nothing helps.
        """
        found, done = fits(lambda: work(self.config))
        if not done and not self._trains():
            for config, device, words in self._steps():
                self._free()
                self.run.check_cancelled()
                self.config, self.run.device = config, device
                self._say(words)
                torch.manual_seed(self.run.seed)
                found, done = fits(lambda: work(self.config))
                if done:
                    break
        if not done:
            self._free()
            raise OutOfMemory(self._remedy())
        return found  # type: ignore[return-value]

    def _trains(self) -> bool:
        return any(role.kind is Kind.MODEL for role in self.operation.outputs)

    def _steps(self) -> Iterator[tuple[Config, torch.device, str]]:
        """What to try, in this order: on the device ever smaller windows; then the CPU, as asked and ever smaller."""
        asked, device, cpu = self.config, self.run.device, torch.device("cpu")
        where = "memory" if device.type == "cpu" else "the GPU's memory"
        for config, words in self._smaller(asked):
            yield config, device, f"{where[:1].upper()}{where[1:]} did not suffice; going on with {words}."
        if device.type == "cpu":
            return
        if self.run.precision != "32":
            self.run.precision = choose_precision("auto", cpu)
        yield asked, cpu, "The GPU's memory did not suffice; going on on the CPU, which takes longer."
        for config, words in self._smaller(asked):
            yield config, cpu, f"Memory did not suffice; going on on the CPU with {words}."

    def _smaller(self, config: Config) -> Iterator[tuple[Config, str]]:
        """Configs with the windows halved, halved again … down to the least that makes sense."""
        while True:
            changed: dict[str, Any] = {}
            for name, mark in marks(self.operation.config, "window").items():
                now = windows.in_use(int(getattr(config, name)), mark, self.model.config if self.model else {})
                less = windows.halved(now, mark)
                if less < now:
                    changed[name] = less
            if not changed:
                return
            try:
                config = type(config).model_validate({**config.model_dump(), **changed})
            except ValueError:  # the settings do not go together with so small a window
                return
            yield config, " and ".join(f"“{name}” at {value}" for name, value in changed.items())

    def _say(self, words: str) -> None:
        self.changes.append(words)
        self.run.emit({"event": "log", "message": words, "changed": True})

    def _free(self) -> None:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self.run.device.type == "mps":
            torch.mps.empty_cache()

    def _remedy(self) -> str:
        if self._trains():
            names = [f"“{name}”" for name in marks(self.operation.config, "lower")]
            lower = f"lower {' or '.join(names)}, choose a smaller tier" if names else "choose a smaller tier"
            return f"There was not enough memory to train; {lower} or another device."
        if self.changes:
            return "There was not enough memory, not even with the smallest windows on the CPU; close other programs."
        return "There was not enough memory; choose a smaller tier, smaller windows or another device."


def free_memory(device: torch.device) -> int | None:
    """Bytes a run can have on a device: of a GPU its own memory, else the computer's; None where nobody knows."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return resources.memory().free


def marks(config: type[Config], role: str) -> dict[str, dict[str, Any]]:
    """The settings that are marked: "window" for `memory_window`, "lower" for `lowers_memory`; name -> mark."""
    found = {}
    for name, info in config.model_fields.items():
        extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        mark = extra.get("memory")
        if isinstance(mark, dict) and mark["role"] == role:
            found[name] = dict(mark)
    return found
