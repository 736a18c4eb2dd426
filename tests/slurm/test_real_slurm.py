"""A real Slurm on this machine: placed on nodes and GPUs, killed and healed, attached to, never run twice."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.slurm.campaign import BEGUN, Campaign, ended, few_images
from tests.slurm.cluster import Cluster

SEEDS = (1, 2, 3, 4, 5, 6)


@pytest.mark.slow
def test_twelve_runs_survive_their_driver_and_a_job(real_slurm: Cluster, tmp_path: Path) -> None:
    """Three runs a job: a job for each GPU of each node."""
    words = ["train", "--dataset", f"mine={few_images(tmp_path / 'mine')}", "--backbone", "clipfit-tiny"]
    words += ["--method", "clipfit,bitfit", "--seeds", ",".join(map(str, SEEDS)), "--shots", "1", "--epochs", "1"]
    words += ["--executor", "slurm", "--device", "cpu", "--gpus", "1", "--cpus", "1", "--time", "10", "--offline"]
    one = Campaign(real_slurm, (*words, "--runs-per-job", "3"), tmp_path / "runs")

    # the driver dies as soon as it has submitted
    driver = one.start("--wait")
    assert driver.stderr and any(line.startswith("submitted 12 runs as 4 jobs") for line in driver.stderr)
    driver.kill()
    driver.communicate()
    (first,) = one.submissions()
    jobs = [task.job for task in first.tasks]

    # a job is killed, with kill -9, as soon as it is at work
    real_slurm.wait(lambda: len(BEGUN.findall(one.logs())) == 4, "four jobs at work")
    begun = BEGUN.findall(one.logs())
    assert sorted(job for job, *_ in begun) == sorted(jobs)
    assert sorted((node, gpu) for _, node, gpu, _ in begun) == [("n1", "0"), ("n1", "1"), ("n2", "0"), ("n2", "1")]
    victim, node = begun[0][:2]
    died = _kill(real_slurm, node, victim)
    assert died

    # two drivers at a time attach, one of them submits anew what the job did not make, and both see the end
    drivers = [one.start("--wait"), one.start("--wait")]
    (table, said), (other_table, other_said) = map(ended, drivers)
    assert table == other_table and all(f" {name} " in table for name in ("clipfit", "bitfit"))
    assert "submitted 12 runs" not in said + other_said
    assert len(one.records()) == 12 and len({run.key for run in one.records()}) == 12
    later = one.submissions()[1:]
    again = [run.key for submission in later for task in submission.tasks for run in task.runs]
    (lost,) = [task for task in first.tasks if task.job == victim]
    assert 1 <= len(again) <= 3 and len(set(again)) == len(again)
    assert set(again) <= {run.key for run in lost.runs}
    assert "failed, submitted again: job" in said + other_said
    assert one.made() == sorted((method, str(seed)) for method in ("bitfit", "clipfit") for seed in SEEDS)

    # and once more: nothing is left to do
    table_again, said = one.run()
    assert table_again == table and "submitted" not in said and "12 runs: 12 finished" in said
    assert len(one.submissions()) == 1 + len(later)


def _kill(slurm: Cluster, node: str, job: str) -> list[int]:
    """Kill what makes the runs of a job; return what died."""
    array, _, task = job.partition("_")
    marks, died = (f"SLURM_ARRAY_JOB_ID={array}\0", f"SLURM_ARRAY_TASK_ID={task}\0"), []
    for process in slurm.processes_of(node):
        folder = Path(f"/proc/{process}")
        program = (folder / "cmdline").read_bytes().split(b"\0")[0]
        environment = (folder / "environ").read_bytes().decode(errors="replace")
        if b"python" in program and all(mark in environment for mark in marks):
            os.kill(process, signal.SIGKILL)
            died.append(process)
    return died
