"""The command line where runs are handed to Slurm, which is faked; what a job does."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from typer.testing import CliRunner, Result

from clipfit_cli.cli import slurm_job
from clipfit_cli.cli.app import app
from clipfit_cli.engine.precision import resolve_precision
from clipfit_cli.errors import ConfigError
from clipfit_cli.models.source import find_blueprint
from clipfit_cli.runs.plan_file import PLAN_KEY, Plan, read_plan, to_plain
from clipfit_cli.runs.run import run as make_run
from clipfit_cli.runs.slurm.submissions import FOLDER, PLAN_FILE, problem_file, read_all
from clipfit_cli.runs.worker import Worker
from tests.conftest import SmallWorld
from tests.runs.test_sweep import Log
from tests.slurm.fake_slurm import FakeSlurm, fake_slurm

QUICK = ("--dataset", "dtd", "--shots", "1", "--epochs", "1", "--seeds", "1,2", "--device", "cpu")


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    return fake_slurm(tmp_path / "slurm", monkeypatch)


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def train(world: SmallWorld, *words: str) -> Result:
    return run("train", *QUICK, *world.options(), "--executor", "slurm", *words)


def test_without_slurm_the_option_says_so(small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(small_world.data_root))
    found = train(small_world)
    assert found.exit_code == 2 and "there is no sbatch on the PATH" in found.stderr
    assert not small_world.runs_dir.exists()


def test_without_submitit_its_extra_is_named(
    small_world: SmallWorld, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipfit_cli.runs.slurm.submit.find_spec", lambda name: None)
    found = train(small_world)
    assert found.exit_code == 2 and "pip install 'clipfit-cli[slurm]'" in found.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--gpus", "0"), "--gpus: only with --executor slurm"),
        (("--wait", "--time", "5"), "--wait, --time: only with --executor slurm"),
        (("--executor", "slum"), "Did you mean 'slurm'?"),
        (("--executor", "slurm", "--force"), "--force does not go with --executor slurm"),
        (("--executor", "slurm", "--jobs", "2"), "--jobs is for this machine"),
        (("--executor", "slurm", "--time", "soon"), "'soon' is no time limit"),
        (("--executor", "slurm", "--memory", "lots"), "--memory is 'lots'; expected a size such as 16G"),
        (("--executor", "slurm", "--device", "tpu"), "unknown device 'tpu'"),
    ],
)
def test_options_that_do_not_fit(small_world: SmallWorld, slurm: FakeSlurm, words: tuple[str, ...], said: str) -> None:
    found = run("train", *QUICK, *small_world.options(), *words)
    assert found.exit_code == 2 and said in found.stderr
    assert slurm.num_submitted == 0


@pytest.mark.slow
def test_from_the_submission_to_the_table(small_world: SmallWorld, slurm: FakeSlurm) -> None:
    """What the jobs do is done here, by the plan that they would have."""
    small_world.runs_dir.mkdir()
    (small_world.runs_dir / "slurm.toml").write_text('account = "lab"\nruns-per-job = 2\n')
    first = train(small_world, "--partition", "gpu", "--method", "clipfit", "--method", "bitfit", "--cpus", "1")
    assert first.exit_code == 0 and first.stdout == "", first.output
    assert "submitted 4 runs as 2 jobs, 7_[0-1]; logs: " in first.stderr
    assert "4 runs: 4 pending" in first.stderr and "--wait waits" in first.stderr
    script = slurm.read("script-1")
    assert {"#SBATCH --partition=gpu", "#SBATCH --account=lab", "#SBATCH --gpus-per-node=1"} <= set(script)

    (one,) = read_all(small_world.runs_dir, print)
    plan = read_plan(small_world.runs_dir / FOLDER / one.name / PLAN_FILE)
    assert plan.setup.threads == 1 and plan.setup.device == "cpu"
    for place in range(3):
        Worker(plan, progress=Log(), say=print).take(place, waits=True)
    slurm.show("RUNNING", "7_1")
    slurm.show("COMPLETED", "7_0")
    again = train(small_world, "--method", "clipfit", "--method", "bitfit", "--csv", "-")
    assert again.exit_code == 0 and "4 runs: 3 finished, 1 running" in again.stderr
    rows = again.stdout.splitlines()
    assert "method" in rows[0] and {line.split(",")[rows[0].split(",").index("method")] for line in rows[1:]} == {
        "clipfit",
        "bitfit",
    }
    assert slurm.num_submitted == 1

    shown = json.loads(run("jobs", "--json", "--runs-dir", str(small_world.runs_dir)).stdout)["rows"]
    assert [row["state"] for row in shown] == ["finished", "finished", "finished", "running"]
    assert [row["job"] for row in shown] == ["7_0", "7_0", "7_1", "7_1"]
    assert {Path(row["log"]).name for row in shown} == {"7_0_0_log.out", "7_1_0_log.out"}


@pytest.mark.slow
def test_a_comparison_shows_what_is_finished_though_its_leader_is_not(
    small_world: SmallWorld, slurm: FakeSlurm
) -> None:
    words = ("compare", "--baseline", "bitfit", *QUICK, *small_world.options(), "--executor", "slurm")
    assert run(*words).exit_code == 0
    (one,) = read_all(small_world.runs_dir, print)
    plan = read_plan(small_world.runs_dir / FOLDER / one.name / PLAN_FILE)
    for place in (0, 1):
        Worker(plan, progress=Log(), say=print).take(place, waits=True)
    slurm.show("PENDING", *(task.job for task in one.tasks))
    found = run(*words, "--json")
    assert found.exit_code == 0 and "5 runs: 2 finished, 3 pending" in found.stderr, found.output
    assert {row["method"] for row in json.loads(found.stdout)["rows"]} == {"zero-shot", "bitfit"}


@pytest.mark.slow
def test_what_failed_for_good_is_an_error(small_world: SmallWorld, slurm: FakeSlurm) -> None:
    assert train(small_world).exit_code == 0
    slurm.show("FAILED", "7_0", "7_1")
    found = train(small_world, "--retries", "0")
    assert found.exit_code == 6 and found.stdout == ""
    assert "job 7_0 ended without a record (FAILED on n1); log: " in found.stderr


@pytest.mark.slow
def test_jobs_are_shown_and_ended_by_what_they_are(small_world: SmallWorld, slurm: FakeSlurm) -> None:
    folder = ("--runs-dir", str(small_world.runs_dir))
    nothing = run("jobs", *folder)
    assert nothing.exit_code == 0 and "nothing was handed to Slurm" in nothing.stderr
    train(small_world)
    slurm.show("PENDING", "7_0", "7_1")
    for words, count in ((("7",), 2), (("7_1",), 1), (("seed=2",), 1), (("dataset=dtd,seed=1", "7_1"), 2)):
        rows = json.loads(run("jobs", "--json", *words, *folder).stdout)["rows"]
        assert len(rows) == count and {row["state"] for row in rows} == {"pending"}
    assert run("jobs", "seed=3", *folder).exit_code == 3
    for word in ("9", "9_1", "99999"):
        lost = run("jobs", word, *folder)
        assert lost.exit_code == 3 and f"nothing on Slurm is '{word}'" in lost.stderr
    assert run("jobs", "9" * 5000, *folder).exit_code in (2, 3)

    looked = run("cancel", "seed=2", *folder)
    assert looked.exit_code == 0 and "nothing is ended yet" in looked.stderr and slurm.read("cancelled") == []
    ended = run("cancel", "seed=2", "--yes", "--json", *folder)
    (one,) = read_all(small_world.runs_dir, print)
    assert slurm.read("cancelled") == [f"--quiet --name={one.name} 7_1"]
    assert [row["state"] for row in json.loads(ended.stdout)["rows"]] == ["cancelled"]
    over = run("cancel", "seed=2", "--yes", "--json", *folder)
    assert json.loads(over.stdout)["rows"] == [] and "none of these is in the queue" in over.stderr
    assert len(slurm.read("cancelled")) == 1

    slurm.show("PENDING", "7_0", reason="JobHeldUser, and more")
    shown = run("jobs", *folder).stdout
    assert "(JobHeldUser)" in shown and "problem" not in shown
    rows = json.loads(run("jobs", "--json", *folder).stdout)["rows"]
    assert [(row["node"], row["reason"], row["problem"]) for row in rows] == [
        ("n1", "JobHeldUser, and more", None),
        ("n1", None, None),
    ]
    slurm.show("FAILED", "7_0")
    shown = run("jobs", *folder).stdout
    assert "problem" in shown and shown.count("log of 7_0: ") == 1 and "log of 7_1: " not in shown


@pytest.mark.slow
def test_jobs_are_shown_where_slurm_is_silent(
    small_world: SmallWorld, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(small_world)
    (slurm.folder / "queue").unlink()
    found = run("jobs", "--runs-dir", str(small_world.runs_dir))
    assert found.exit_code == 0 and "this is how the jobs were known to stand" in found.stderr
    assert "pending" in found.stdout
    failed = train(small_world)
    assert failed.exit_code == 2 and "squeue failed" in failed.stderr and slurm.num_submitted == 1


def test_auto_is_bf16_on_a_gpu_of_another_machine() -> None:
    large, small = (find_blueprint(*names) for names in (("ViT-B-32", "openai"), ("clipfit-tiny", "builtin")))
    gpu = torch.device("cuda")
    assert resolve_precision("auto", gpu, large, is_here=False) == "bf16"
    assert resolve_precision("auto", gpu, small, is_here=False) == "fp32"
    assert resolve_precision("fp16", gpu, large, is_here=False) == "fp16"
    with pytest.raises(ConfigError, match="needs a CUDA device"):
        resolve_precision("fp16", torch.device("cpu"), large, is_here=False)


class _Died(Exception):
    """What no run should raise."""


@pytest.mark.slow
def test_a_run_that_fails_stops_no_other_of_its_job(
    small_world: SmallWorld, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One would be another run here, one meets a bug; the third is made."""
    train(small_world, "--seeds", "1,2,3", "--runs-per-job", "3")
    (one,) = read_all(small_world.runs_dir, print)
    path = small_world.runs_dir / FOLDER / one.name / PLAN_FILE
    plan = read_plan(path)
    other = msgspec.structs.replace(plan.runs[0], key="0" * 64)
    path.write_text(json.dumps({PLAN_KEY: to_plain(Plan(plan.setup, (other, *plan.runs[1:])))}))

    def buggy(prepared: Any, *words: Any, **more: Any) -> Any:
        if prepared.config.seed == 2:
            raise _Died("a bug")
        return make_run(prepared, *words, **more)

    monkeypatch.setattr("clipfit_cli.runs.sweep.run", buggy)
    job = slurm_job._Made()
    job.make(path, [0, 1, 2])
    assert (job.num_finished, job.num_failed) == (1, 2)
    assert "would be another run here" in problem_file(path.parent, "0" * 64).read_text()
    assert problem_file(path.parent, plan.runs[1].key).read_text() == "_Died: a bug"
    assert [record.parent.name.split("-")[2] for record in small_world.runs_dir.glob("*/*/*/record.json")] == ["seed3"]
    again = slurm_job._Made()
    again.make(path, [2])
    assert (again.num_finished, again.num_failed, again.has_gone_on) == (0, 0, False), "it found what it had made"


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU")
def test_what_keeps_a_job_from_beginning_is_said_of_each_of_its_runs(small_world: SmallWorld, slurm: FakeSlurm) -> None:
    """A node whose GPU does not work: the command says so, not only that a job is gone."""
    train(small_world, "--runs-per-job", "2", "--device", "cuda", "--precision", "fp32")
    (one,) = read_all(small_world.runs_dir, print)
    path = small_world.runs_dir / FOLDER / one.name / PLAN_FILE
    job = slurm_job._Made()
    job.make(path, [0, 1])
    assert job.num_failed == 2
    slurm.show("FAILED", "7")
    failed = train(small_world, "--device", "cuda", "--precision", "fp32", "--retries", "0")
    assert failed.exit_code == 6 and "CUDA" in failed.stderr and "ended without a record" not in failed.stderr


def test_a_job_that_got_nowhere_is_not_begun_anew(
    slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would be so for ever."""
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    made = slurm_job._Made()
    assert not made.has_gone_on
    made._folder = tmp_path / "run"
    made._folder.mkdir()
    made._before = slurm_job._files(made._folder)
    slurm_job._begin_anew(has_gone_on=made.has_gone_on)
    assert slurm.read("controlled") == [] and "a larger --time helps" in capsys.readouterr().err
    (made._folder / "checkpoint.safetensors").touch()
    slurm_job._begin_anew(has_gone_on=made.has_gone_on)
    assert slurm.read("controlled") == ["requeue 77"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "told"), [(signal.SIGUSR2, ["requeue 77"]), (signal.SIGTERM, [])])
def test_the_signals_of_a_job(
    slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, told: list[str]
) -> None:
    """Near the limit it is begun anew, told to end it ends, whatever submitit has set before."""
    kinds = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGCONT)
    before = {kind: signal.getsignal(kind) for kind in kinds}
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setattr(slurm_job, "set_up", lambda: None)

    class Made(slurm_job._Made):
        def make(self, plan: Path, places: list[int]) -> None:
            self.num_finished = 1
            os.kill(os.getpid(), number)
            time.sleep(60)  # ended by the signal

    monkeypatch.setattr(slurm_job, "_Made", Made)
    for kind in kinds:
        signal.signal(kind, lambda *_: None)  # as submitit does
    try:
        with pytest.raises(SystemExit) as caught:
            slurm_job.work(str(tmp_path / "plan.json"), [0])
        assert caught.value.code == 128 + number
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
    assert slurm.read("controlled")[:1] == [f"{line}" for line in told]
