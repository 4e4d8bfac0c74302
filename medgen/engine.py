"""Who does the cases of a batch: workers of Dask on this machine, or on a cluster that runs already.

Each worker is a process with one case at a time, and is given the next when it has finished one: neither this process
nor the scheduler holds more for ten thousand cases than for ten, and when a worker dies it is known which case it was
at. Dask is imported when a cluster starts.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import importlib.util
import itertools
import logging
import os
import queue
import re
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgen import ledger, resources
from medgen.errors import Cancelled, MedGenError, SomeFailed, UserError
from medgen.worker import Plan, Task, memory, work

if TYPE_CHECKING:
    from distributed import Client, SpecCluster

_QUIET = {
    "distributed.admin.log-length": 100,
    "distributed.admin.low-level-log-length": 100,
    "distributed.scheduler.events-cleanup-delay": "10 s",
    "distributed.worker.profile.enabled": False,
    # Memory: a case is one piece, there is nothing to spill; a worker over its limit is ended, and its case noted.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    # Dask has glibc give every block back at once (MALLOC_TRIM_THRESHOLD_), and torch then waits for new pages: a 3D
    # network takes 1.6 times as long (1.97 s against 1.20 s a case).
    "distributed.nanny.pre-spawn-environ": {},
    "distributed.comm.timeouts.connect": "10 s",
    "distributed.comm.timeouts.tcp": "20 s",
}


@dataclass(frozen=True)
class Request:
    """What was asked for: how many workers here, or the address of a scheduler; tries and memory a case may have."""

    workers: int | None = None
    scheduler: str | None = None
    retry: int = 0
    memory: int | None = None
    device: str = "auto"


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parse_size(text: str) -> int:
    """Bytes of "8GiB", "8G", "500MB" …; UserError for anything else, and for less than 64 MiB."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *(?:([kmgt])(i?)b?|b?)", text.strip().lower())
    if found is None or len(found[1]) > 12:
        raise UserError(f"--limit-memory {text} is not a size; write for example 8GiB.")
    power = " kmgt".index(found[2] or " ")
    size = int(float(found[1]) * (1024 if found[3] else 1000) ** power)
    if size < 2**26:
        raise UserError(f"--limit-memory {text} is too little for any case; give 64MiB or more.")
    return size


# --- the engine ---------------------------------------------------------------------------------------------------


class Workers:
    """Dask's workers. stopped: whether somebody has asked to stop; Cancelled is raised soon after."""

    def __init__(
        self, client: Client, cluster: SpecCluster | None, request: Request, stopped: Callable[[], bool], total: int = 1
    ) -> None:
        self.client = client
        self.cluster = cluster
        self.request = request
        self.stopped = stopped
        self.total = total
        self._counted = 0.0
        self._workers = 0
        self._most: int | None = None

    @property
    def count(self) -> int:
        """Workers there are; on a cluster they come and go, so it is asked again every other second."""
        if time.monotonic() - self._counted > 2:
            self._counted = time.monotonic()
            try:
                self._workers = len(self.client.scheduler_info(n_workers=-1)["workers"])
            except (OSError, TimeoutError):
                raise self._lost() from None
        return min(self._workers, self._most or self._workers)

    @property
    def threads(self) -> int | None:
        """The share of this machine's processors that a case has; None on a cluster, which says so itself.

        It goes by the cohort, not by what is left of it: another number of threads gives other last digits, and a batch
        that was interrupted is to end as one that was not.
        """
        return None if self.cluster is None else max(1, cores() // (self._most or _share(self.request, self.total)))

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call it on some worker; raises what it raises, and SomeFailed when workers die at it or all is lost."""
        for _ in range(3):
            future = self.client.submit(function, *arguments, pure=False, key=f"call-{uuid.uuid4().hex}")
            outcome = self._outcome(future)
            if type(outcome).__name__ == "KilledWorker":
                continue
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome
        raise SomeFailed("Workers were ended three times before the first case; look at the memory of the machine.")

    def _outcome(self, future: Any) -> Any:
        """What a future gives, or the exception that it ended with."""
        while True:
            self._check_stopped()
            try:
                error = future.exception(timeout=0.5)
                return future.result() if error is None else error
            except (TimeoutError, asyncio.TimeoutError):
                if self.client.status != "running":
                    raise self._lost() from None
            except (concurrent.futures.CancelledError, OSError):  # all futures of a lost scheduler; the way to it
                raise self._lost() from None

    def _check_stopped(self) -> None:
        if self.stopped():
            raise Cancelled("The batch was cancelled.")

    def fit(self, plan: Plan, task: Task) -> str | None:
        """Use only as many workers as the machine's memory holds, by the estimate for one case; a sentence if fewer.

        Workers that were asked for by number, and those of a cluster, are all used.
        """
        if self.cluster is None or self.request.workers is not None or self.count < 2:
            return None
        each, free = self.call(memory, plan, task), resources.memory().free
        if not each or not free or each * self.count <= free:
            return None
        self._most = max(1, int(free // each))
        self.cluster.scale(self._most)
        return f"Memory holds {self._most} of such cases at once ({each / 2**30:.1f} GB each): so many workers go on."

    def over(self, plan: Plan, tasks: list[Task]) -> Iterator[tuple[Task, dict[str, Any] | BaseException]]:
        """The tasks as they end, with their records or the exception that stands for one.

        Raises SomeFailed when the scheduler is lost.
        """
        ended: queue.Queue[Any] = queue.Queue()
        waiting = iter(tasks)
        running: dict[Any, Task] = {}

        def feed(next_ones: Iterable[Task]) -> None:
            for task in next_ones:
                # The key names no case: a scheduler remembers every beginning of a key for ever.
                key = f"case-{uuid.uuid4().hex}"
                future = self.client.submit(work, plan, task, pure=False, key=key, retries=self.request.retry)
                running[future] = task
                future.add_done_callback(ended.put)

        try:
            while True:
                self._check_stopped()
                # One where no worker is there yet: it waits for the first.
                feed(itertools.islice(waiting, max(0, max(1, self.count) - len(running))))
                if not running:
                    return
                try:
                    future = ended.get(timeout=0.5)
                except queue.Empty:
                    if self.client.status != "running":
                        raise self._lost() from None
                    continue
                task = running.pop(future)
                outcome = self._outcome(future)
                future.release()
                if type(outcome).__name__ == "KilledWorker" and not ledger.sweep(Path(plan.out), task.name):
                    feed([task])  # it had not begun: another case's worker took it along
                    continue
                yield task, outcome
        finally:
            with contextlib.suppress(Exception):
                self.client.cancel(list(running), force=True)

    def _lost(self) -> MedGenError:
        where = self.request.scheduler or "this machine"
        return SomeFailed(
            f"The scheduler on {where} was lost; what was finished is kept: start the same command again to go on."
        )


# --- starting it --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def started(
    request: Request, cases: int, total: int, scratch: Path, stopped: Callable[[], bool], log: Callable[[str], None]
) -> Iterator[Workers]:
    """Workers for so many cases of a cohort of `total`, ended with everything that was started when the block ends.

    scratch: a folder for the workers' own small files. UserError where the cluster cannot be reached.
    """
    if importlib.util.find_spec("distributed") is None:
        raise UserError("medgen batch needs the package dask[distributed]; install it: pip install “medgen[batch]”.")
    import dask
    import distributed  # noqa: F401  # its import sets the levels of its loggers

    for name in [name for name in logging.root.manager.loggerDict if name.startswith(("distributed", "tornado"))]:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)  # what went wrong is said by us, once
    with dask.config.set({**_QUIET, "distributed.scheduler.allowed-failures": request.retry}):
        if request.scheduler is not None:
            with _connected(request) as client:
                crew = Workers(client, None, request, stopped)
                if not crew.count:
                    log(f"The scheduler {request.scheduler} has no workers yet; the batch begins with the first.")
                yield crew
        else:
            with _local(request, cases, scratch) as (client, cluster):
                yield Workers(client, cluster, request, stopped, total)


@contextlib.contextmanager
def _connected(request: Request) -> Iterator[Client]:
    from distributed import Client

    try:
        client = Client(request.scheduler, timeout="15 s", set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise UserError(f"The scheduler {request.scheduler} cannot be reached ({error}); check that it runs.") from None
    try:
        yield client
    finally:
        with contextlib.suppress(Exception):  # it may be gone
            client.close(timeout=5)


@contextlib.contextmanager
def _local(request: Request, cases: int, scratch: Path) -> Iterator[tuple[Client, SpecCluster]]:
    from distributed import Client, Nanny, Scheduler, SpecCluster

    security = _security()
    options = {"host": "127.0.0.1", "security": security, "protocol": "tls://" if security else "tcp://"}
    common = {**options, "nthreads": 1, "memory_limit": request.memory or 0, "dashboard": False}
    common |= {"local_directory": str(scratch), "silence_logs": logging.CRITICAL, "death_timeout": 60}
    # Ctrl-C reaches every process of a terminal; a worker that ended by it would look as if its case had crashed.
    common["preload"] = ["import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"]
    places = _places(request, cases)
    workers = {
        number: {"cls": Nanny, "options": {**common, "env": environment}} for number, environment in enumerate(places)
    }
    scheduler = {"cls": Scheduler, "options": {**options, "dashboard": False, "port": 0}}
    client = None
    try:
        cluster = SpecCluster(workers, scheduler, security=security, silence_logs=logging.CRITICAL)
    except (OSError, RuntimeError, TimeoutError) as error:
        raise _not_started(str(error)) from None
    try:
        try:
            client = Client(cluster, security=security, set_as_default=False, timeout="60 s")
            client.wait_for_workers(len(places), timeout=120)
        except (OSError, TimeoutError) as error:
            raise _not_started(str(error) or "two minutes have passed") from None
        yield client, cluster
    finally:
        for one in (client, cluster):
            with contextlib.suppress(Exception):  # a worker that has just died is no reason to fail now
                if one is not None:
                    one.close(timeout=10)


def _not_started(why: str) -> SomeFailed:
    return SomeFailed(f"The workers could not be started ({why}); close other programs or use fewer --workers.")


def _places(request: Request, cases: int) -> list[dict[str, str]]:
    """The environment of each worker: a GPU of its own where there are any and they are not declined, else its share
    of the processors. A device that is named, and Apple's, is one for all: one worker."""
    gpus = visible_gpus() if request.device in ("auto", "cuda") else []
    if request.workers is not None and gpus and request.workers > len(gpus):
        raise UserError(
            f"--workers {request.workers} is more than the {len(gpus)} GPUs of this machine; ask for fewer."
        )
    count = _share(request, cases)
    threads = str(max(1, cores() // count))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
    common = dict.fromkeys(names, threads)
    return [{**common, **({"CUDA_VISIBLE_DEVICES": gpus[n]} if gpus else {})} for n in range(count)]


def _share(request: Request, cases: int) -> int:
    """Among how many workers so many cases are shared out here."""
    device = request.device
    one = device.startswith(("cuda:", "mps")) or (device == "auto" and sys.platform == "darwin")
    gpus = visible_gpus() if device in ("auto", "cuda") else []
    return max(1, min(request.workers or (1 if one else len(gpus) or cores()), cases))


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES is for each GPU that this process, with its build of torch, may use."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        if metadata.version("torch").endswith("+cpu"):
            return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [one.strip() for one in named.split(",") if one.strip() not in ("", "-1")]
    return [str(number) for number in range(len(resources.gpus()))]


def _security() -> Any:
    """A certificate for this batch alone, so that nobody else on the machine can hand work to its workers."""
    if importlib.util.find_spec("cryptography") is None:
        return None
    from distributed import Security

    return Security.temporary()
