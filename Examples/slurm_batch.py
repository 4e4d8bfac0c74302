"""Run medgen batch on a cluster under SLURM: workers are SLURM jobs, started by dask-jobqueue, one case at a time each.

    python Examples/slurm_batch.py --jobs 40 --gpu --memory 24GB --walltime 08:00:00 --partition gpu \
        -- MODEL COHORT.csv -o /shared/results --retry 1

Run it where `sbatch` is and where it may stay as long as the batch takes (a login node in tmux, or a small job of its
own). Everything after `--` goes to medgen batch. Images, model and results must lie where every node sees them under
the same path. When it ends, or is cancelled with Ctrl-C, the SLURM jobs end too; given again, it does what is missing.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from typing import Any


def cluster(args: argparse.Namespace) -> Any:
    """A dask-jobqueue cluster whose every job is one worker: a GPU or a few processors, one case at a time."""
    from dask_jobqueue import SLURMCluster

    return SLURMCluster(
        queue=args.partition,
        account=args.account,
        walltime=args.walltime,
        cores=1,  # cases at a time; the threads of one case are OMP_NUM_THREADS below
        processes=1,
        job_cpu=args.threads,
        memory=args.memory,
        python=sys.executable,
        interface=args.interface,
        # A nanny would have every block of memory given back at once, which slows torch down; adapt() below replaces
        # whole jobs.
        nanny=False,
        job_script_prologue=[f"export OMP_NUM_THREADS={args.threads} MKL_NUM_THREADS={args.threads}"],
        job_extra_directives=["--gres=gpu:1"] if args.gpu else [],
        # A worker ends in time for another to take its place before SLURM kills it.
        worker_extra_args=["--lifetime", args.lifetime, "--lifetime-stagger", "4m"] if args.lifetime else [],
        scheduler_options={"dashboard": False},
    )


def parse(words: list[str]) -> argparse.Namespace:
    """The command line; what follows `--` is for medgen batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, required=True, help="how many workers")
    parser.add_argument("--gpu", action="store_true", help="a GPU for each")
    parser.add_argument("--threads", type=int, default=4, help="processors for each")
    parser.add_argument("--memory", default="16GB", help="memory for each")
    parser.add_argument("--walltime", default="04:00:00")
    parser.add_argument("--lifetime", help="end and replace workers after this long, as 230m for a walltime of 4 h")
    parser.add_argument("--partition")
    parser.add_argument("--account")
    parser.add_argument("--interface", help="the network between the nodes, as ib0")
    parser.add_argument("batch", nargs=argparse.REMAINDER, help="-- and the words of medgen batch")
    args = parser.parse_args(words)
    args.batch = args.batch[1:] if args.batch[:1] == ["--"] else args.batch
    return args


def main() -> int:
    args = parse(sys.argv[1:])
    with cluster(args) as workers:
        # Not scale(): a worker that ends by its lifetime, or is taken away, is to be replaced.
        workers.adapt(minimum_jobs=args.jobs, maximum_jobs=args.jobs)
        words = [*args.batch, "--scheduler", workers.scheduler_address]
        batch = subprocess.Popen([sys.executable, "-m", "medgen", "batch", *words])
        for number in (signal.SIGINT, signal.SIGTERM):  # the batch stops, keeps what is finished, and says so
            signal.signal(number, lambda *_: batch.terminate())
        return batch.wait()


if __name__ == "__main__":
    sys.exit(main())
