"""A real Slurm whose time limits end jobs and whose nodes die; the long check calls this file by its name."""

from __future__ import annotations

import re
import time
from pathlib import Path

from clipfit_cli.results.record import Run
from clipfit_cli.results.store import RunStore
from tests.slurm.campaign import BEGUN, Campaign, few_images, results_of
from tests.slurm.cluster import Cluster

LIMIT_MIN, ENOUGH_S = "2", 90.0
"""Of a job, and of training: Slurm tells a job of this limit after about 50 s, and it has to have begun by then."""

SOME_S = 30.0
"""Of training: enough for a node to die meanwhile."""

PROBE = 2000
"""Epochs by which the time of one is told: so many that what comes before the first does not count."""


def words(folder: Path, epochs: int, *more: str) -> tuple[str, ...]:
    """Return a command that trains on few images of one's own, on one thread."""
    data = ("--dataset", f"mine={few_images(folder / 'mine')}", "--backbone", "clipfit-tiny", "--device", "cpu")
    # whatever the environment says of threads, for the bits of both are compared
    return ("train", *data, "--threads", "1", "--shots", "2", "--epochs", str(epochs), "--offline", *more)


def alone(slurm: Cluster, command: tuple[str, ...], runs_dir: Path) -> Run:
    """Return the one run of a command that is made here, undisturbed."""
    one = Campaign(slurm, command, runs_dir)
    one.run(seconds=1500)
    (record,) = one.records()
    return record


def results(one: Campaign) -> dict[str, dict[str, bytes]]:
    """Return what all runs made, by the name of their folder."""
    return {folder.name: results_of(folder) for folder in RunStore(one.runs_dir).all_folders()}


def test_a_job_at_its_time_limit_is_requeued_and_resumed_to_the_same_bits(real_slurm: Cluster, tmp_path: Path) -> None:
    probe = alone(real_slurm, words(tmp_path, PROBE, "--seeds", "1"), tmp_path / "probe")
    command = words(tmp_path, round(PROBE * ENOUGH_S / probe.train_time_s), "--seeds", "1")
    undisturbed = Campaign(real_slurm, command, tmp_path / "undisturbed")
    undisturbed.run(seconds=1500)
    one = Campaign(
        real_slurm,
        (*command, "--executor", "slurm", "--cpus", "1", "--gpus", "1", "--time", LIMIT_MIN, "--retries", "0"),
        tmp_path / "runs",
    )
    one.run("--wait", seconds=1500)

    logs = one.logs()
    restarts = [int(found[3]) for found in BEGUN.findall(logs)]
    assert restarts == list(range(len(restarts))) and len(restarts) > 1
    assert logs.count("told to end by SIGUSR2") == logs.count("waiting in the queue to go on") == len(restarts) - 1
    assert len(re.findall(r"^going on with clipfit on mine.* from step \d+", logs, flags=re.M)) == len(restarts) - 1
    (record,) = one.records()
    assert record.times_resumed == len(restarts) - 1 and len(one.submissions()) == 1
    assert results(one) == results(undisturbed)


def test_the_runs_of_a_node_that_dies_are_requeued_and_resumed(real_slurm: Cluster, tmp_path: Path) -> None:
    """A job for each GPU; one of the nodes dies when all have kept something."""
    probe = alone(real_slurm, words(tmp_path, PROBE, "--seeds", "1"), tmp_path / "probe")
    command = words(
        tmp_path, round(PROBE * SOME_S / probe.train_time_s), "--seeds", "1,2,3,4", "--checkpoint-every", "5"
    )
    undisturbed = Campaign(real_slurm, command, tmp_path / "undisturbed")
    undisturbed.run(seconds=1500)
    one = Campaign(
        real_slurm,
        (*command, "--executor", "slurm", "--cpus", "1", "--gpus", "1", "--time", "30", "--retries", "0"),
        tmp_path / "runs",
    )
    one.run()
    kept = "*/*/*/checkpoint.safetensors"
    real_slurm.wait(lambda: len(list(one.runs_dir.glob(kept))) == 4, "four checkpoints", 120)
    hit = {job for job, node, *_ in BEGUN.findall(one.logs()) if node == "n1"}
    assert len(hit) == 2
    real_slurm.kill_node("n1")
    killed_at = time.monotonic()
    one.run("--wait", seconds=1500)
    took_s = time.monotonic() - killed_at

    again = [found for found in BEGUN.findall(one.logs()) if found[3] != "0"]
    assert {job for job, *_ in again} == hit and {node for _, node, *_ in again} == {"n2"}
    assert len(one.submissions()) == 1, "Slurm begins them anew, not the driver"
    assert sorted(record.times_resumed for record in one.records()) == [0, 0, 1, 1], took_s
    assert results(one) == results(undisturbed)
