"""The worked example for SLURM makes the jobs it says it makes."""

from __future__ import annotations

import sys

import pytest
from backend_tools import ROOT

sys.path.insert(0, str(ROOT / "Examples"))
slurm_batch = pytest.importorskip("slurm_batch")


def test_each_job_is_one_worker_with_a_gpu_and_one_case_at_a_time() -> None:
    words = ["--jobs", "4", "--gpu", "--threads", "6", "--memory", "24GB", "--partition", "gpu"]
    args = slurm_batch.parse([*words, "--", "model", "cohort.csv", "-o", "out", "--retry", "1"])
    assert args.batch == ["model", "cohort.csv", "-o", "out", "--retry", "1"]
    with slurm_batch.cluster(args) as cluster:
        script = cluster.job_script()
    for line in ("#SBATCH -p gpu", "#SBATCH --gres=gpu:1", "#SBATCH --cpus-per-task=6", "export OMP_NUM_THREADS=6"):
        assert line in script
    assert "--nthreads 1" in script and "--no-nanny" in script and "--nworkers" not in script
