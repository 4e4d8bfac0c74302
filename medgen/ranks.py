"""The processes of a training on several GPUs or machines, as `torchrun` starts them: who each is, what all agree on.

Every process, a rank, runs the same command line and draws the same random numbers; each works on its own part of every
batch. Rank 0 alone validates, speaks and writes. In one process all of this answers at once and touches nothing.

Who a process is stands in its environment, which the standard library reads; torch is imported by what needs it.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from medgen.errors import CANCELLED, MedGenError, UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Result = TypeVar("Result")

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Rank 0 may validate for hours while the others wait. A rank that dies is noticed at once: its connections close.
_PATIENCE = timedelta(days=2)


class Lost(MedGenError):
    """Another process of the training has ended."""


# --- who a process is ---------------------------------------------------------------------------------------------


def count() -> int:
    """How many processes train together."""
    return int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in _TORCHRUN) else 1


def number() -> int:
    """Which of them this one is, from 0."""
    return int(os.environ["RANK"]) if count() > 1 else 0


def first() -> bool:
    """Whether this is the one that validates, speaks and writes."""
    return number() == 0


def restarted() -> bool:
    """Whether torchrun has started this training again after a failure (`--max-restarts`)."""
    return count() > 1 and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def own_device(device: torch.device) -> torch.device:
    """The device of this process where `device` was asked for: of the machine's GPUs its own.

    Raises UserError where there are not enough of them.
    """
    import torch

    if count() == 1 or device.type == "cpu":
        return device
    if device.type != "cuda":
        raise UserError(f"Several processes cannot share the device “{device}”; start one, or choose --device cpu.")
    if ":" in str(device):
        raise UserError(f"--device {device} is one GPU, but {count()} processes were started; choose --device cuda.")
    here, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if here > gpus:
        raise UserError(
            f"{here} processes were started on a machine with {gpus} GPU{'s' if gpus > 1 else ''}; start one a GPU "
            "(--nproc-per-node), or choose --device cpu."
        )
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]))


# --- how they fail ------------------------------------------------------------------------------------------------


def first_to_fail(code: int) -> tuple[bool, int]:
    """Whether this process is the first to fail, so that it says why, and the exit code that all end with.

    torchrun's store keeps the first code. Where it is gone, everybody speaks (twice is better than never), but of a
    cancellation only rank 0.
    """
    if count() == 1:
        return True, code
    try:
        mine = f"{code} {number()}"
        found = _store().compare_set(_failure_key(), "", mine).decode()
    except Exception:
        return first() or code != CANCELLED, code
    return found == mine, int(found.split()[0])


def failure() -> int | None:
    """The exit code of the first process that has failed, if one has."""
    try:
        store = _store()
        return int(store.get(_failure_key()).split()[0]) if store.check([_failure_key()]) else None
    except Exception:
        return None


def _failure_key() -> str:
    return f"medgen/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"


def _store() -> Any:
    """A connection of our own to the store of torchrun, which lives until the last process has ended."""
    from torch.distributed import TCPStore

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    socket.create_connection((address, port), timeout=5).close()  # where nobody listens, TCPStore waits, and complains
    return TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=5))


# --- what they agree on -------------------------------------------------------------------------------------------


def fabric(device: torch.device, precision: str) -> Any:
    """Lightning Fabric on this process's device, connected with the other processes.

    Raises UserError where another machine computes otherwise than the first.
    """
    import logging

    os.environ.setdefault("GLOO_LOG_LEVEL", "ERROR")  # it announces its connections on the terminal
    from lightning_fabric import Fabric

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # and Fabric its precision
    form: Any = "bf16-mixed" if precision == "bf16" else "32-true"
    if count() == 1:
        return Fabric(accelerator=device.type, devices=1, precision=form)
    from lightning_fabric.plugins.environments import TorchElasticEnvironment
    from lightning_fabric.strategies import DDPStrategy

    strategy = DDPStrategy(
        cluster_environment=TorchElasticEnvironment(),
        process_group_backend="cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        timeout=_PATIENCE,
    )
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    made = Fabric(accelerator=device.type, devices=here, num_nodes=count() // here, strategy=strategy, precision=form)
    _together(made.launch)
    theirs = from_first(lambda: (device.type, precision))
    if theirs != (device.type, precision):
        raise UserError(
            f"This machine would train on {device.type} in {precision}, the first one on {theirs[0]} in {theirs[1]}; "
            "give the same --device and --precision to all."
        )
    return made


def any_of(flag: bool) -> bool:
    """Whether it is true in any process."""
    if count() == 1:
        return flag
    import torch

    return bool(_sum(torch.tensor([float(flag)]))[0] > 0)


def mean(value: float, weight: float) -> tuple[float, float]:
    """Mean of `value` over the processes, each counting by its `weight`; and which share of the sum of all weights is
    this process's."""
    if count() == 1:
        return value, 1.0
    import torch

    total = _sum(torch.tensor([value * weight, weight], dtype=torch.float64)).tolist()
    scale = max(total[1], 1e-12)
    return total[0] / scale, weight / scale


def from_first(work: Callable[[], Result]) -> Result:
    """What `work` gives in rank 0, for all: plain data. The others wait; a MedGenError is raised in all of them."""
    if count() == 1:
        return work()
    import torch

    told: list[Any] = [None, None]
    if first():
        try:
            told[0] = work()
        except MedGenError as error:
            told[1] = error
    _together(lambda: torch.distributed.broadcast_object_list(told, src=0, device=torch.device("cpu")))
    if told[1] is not None:
        raise told[1]
    return told[0]


def gathered(values: Tensor) -> Tensor:
    """(n, ...) of each process -> (processes x n, ...) of all, in the order of ranks.

    For losses that couple the samples of a batch. Only this process's part has a gradient, and that counts as often as
    there are processes: the mean over the processes (`average_gradients`) is then the gradient of the loss over the
    whole batch.
    """
    if count() == 1:
        return values
    import torch

    fixed = values.detach().contiguous()
    parts = [torch.empty_like(fixed) for _ in range(count())]
    _together(lambda: torch.distributed.all_gather(parts, fixed))
    parts[number()] = fixed + (values - fixed) * count()
    return torch.cat(parts)


def average_gradients(parameters: Iterable[Tensor], buffers: Iterable[Tensor], share: float) -> None:
    """Replace every gradient, and every floating-point buffer (a normalisation's running statistics), by its mean over
    the processes, this one counting by `share`. One message holds them all; what has a gradient nowhere gets none.
    """
    if count() == 1:
        return
    import torch

    wanted = list({id(one): one for one in parameters if one.requires_grad}.values())
    averaged = [one for one in buffers if one.is_floating_point()]
    if not wanted and not averaged:
        return
    device = (wanted or averaged)[0].device
    has = torch.tensor([float(one.grad is not None) for one in wanted], device=device)
    sent = [torch.zeros_like(one) if one.grad is None else one.grad for one in wanted] + averaged
    flat = torch.cat([has, *(one.detach().reshape(-1) * share for one in sent)])
    _sum(flat)
    got, *means = flat.split([len(wanted), *(one.numel() for one in sent)])
    for one, there, value in zip(wanted, got.tolist(), means[: len(wanted)], strict=True):
        one.grad = value.view(one.shape).to(one) if there and one.grad is None else one.grad
        if one.grad is not None:
            one.grad.copy_(value.view(one.shape))
    for one, value in zip(averaged, means[len(wanted) :], strict=True):
        one.copy_(value.view(one.shape))


def leave() -> None:
    """Wait for all processes, then part with them; nothing where a run has never met the others."""
    if count() == 1:
        return
    import torch

    if torch.distributed.is_initialized():
        any_of(False)
        torch.distributed.destroy_process_group()


def _sum(tensor: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    import torch

    _together(lambda: torch.distributed.all_reduce(tensor))
    return tensor


def _together(work: Callable[[], Any]) -> None:
    """Do what all processes do at the same time; Lost where one of them is no more."""
    try:
        work()
    except RuntimeError as error:  # torch has no narrower class for a closed connection
        reason = re.sub(r"^\[.*?\] ", "", str(error).splitlines()[0]).partition(". ")[0].rstrip(".")
        raise Lost(
            f"A process of this training ended without a word, as when it is killed ({reason}); go on from the last "
            "checkpoint with --resume."
        ) from None
