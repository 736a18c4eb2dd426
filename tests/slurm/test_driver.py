"""What is handed to Slurm, healed and collected; Slurm itself is faked."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import SimpleNamespace

import msgspec
import pytest

from clipfit_cli.errors import ConfigError, ResultsError, SchedulerError, SweepError
from clipfit_cli.runs.plan_file import read_plan
from clipfit_cli.runs.slurm import calls, overview, submissions, submit
from clipfit_cli.runs.slurm.submissions import FOLDER, PLAN_FILE
from tests.slurm.world import World, key_of, later, plain


def test_what_is_not_recorded_is_submitted_once(world: World) -> None:
    world.runs[1].is_recorded = True
    assert world.step() == {"finished": 1, "pending": 4}
    (one,) = world.submissions()
    assert [task.job for task in one.tasks] == ["7_0", "7_1", "7_2", "7_3"]
    assert world.said == [f"submitted 4 runs as 4 jobs, 7_[0-3]; logs: {world.folder / FOLDER / one.name}"]
    plan = read_plan(world.folder / FOLDER / one.name / PLAN_FILE)
    assert [run.key for run in plan.runs] == [key_of(n) for n in (0, 2, 3, 4)] and plan.setup == world.plan.setup
    script = world.slurm.read("script-1")
    assert f"#SBATCH --job-name={one.name}" in script and "#SBATCH --array=0-3%4" in script
    assert "#SBATCH --requeue" in script

    world.slurm.show("PENDING", "7_0", "7_1")
    world.slurm.show("RUNNING", "7_2", "7_3")
    assert world.step() == {"finished": 1, "running": 2, "pending": 2}
    for run in world.runs:
        run.is_recorded = True
    driver = world.driver()
    assert driver.step() == {"finished": 5} and len(driver.result.records) == 5
    assert world.slurm.num_submitted == 1 and len(world.said) == 1
    assert all(line.endswith(f" --name={one.name}") for line in world.slurm.read("asked")), "not those of one user"


def test_nothing_is_submitted_where_all_is_recorded(world: World) -> None:
    for run in world.runs:
        run.is_recorded = True
    world.slurm.write("silence", "")
    assert world.step() == {"finished": 5}
    assert world.slurm.num_submitted == 0 and not world.submissions()


def test_what_failed_is_submitted_again_alone_and_told_at_last(world: World) -> None:
    """A job of five runs dies; what it did to its job the run shall not do to others."""
    assert world.step(runs_per_job=5) == {"pending": 5}
    world.slurm.show("OUT_OF_MEMORY", "7")
    for run in world.runs[:3]:
        run.is_recorded = True
    assert world.step(runs_per_job=5) == {"finished": 3, "pending": 2}
    assert [len(task.runs) for task in world.submissions()[1].tasks] == [1, 1]
    assert "seed 3 failed, submitted again: job 7 ended without a record (OUT_OF_MEMORY on n1)" in world.said[1]
    world.runs[4].is_recorded = True
    for job in ("8_0", "9"):  # the second and the third try
        world.slurm.show("FAILED", job)
        problem = world.submissions()[-1].problem_of(world.folder, key_of(3))
        problem.write_text("the loss is not finite")
        driver = world.driver()
        counts = driver.step()
    assert counts == {"finished": 4, "failed": 1} and world.slurm.num_submitted == 3
    ((config, error),) = driver.result.failures
    assert config.seed == 3 and isinstance(error, SweepError)
    assert str(error).startswith("the loss is not finite; log: ") and str(error).endswith("/9_0_log.out")

    assert world.step() == {"finished": 4, "pending": 1}  # the next command tries anew
    world.slurm.show("FAILED", "10")
    assert world.step() == {"finished": 4, "pending": 1} and world.slurm.num_submitted == 5


def test_without_retries_the_first_failure_is_told(world: World) -> None:
    world.step()
    world.slurm.show("FAILED", *(f"7_{place}" for place in range(5)))
    driver = world.driver(retries=0)
    assert driver.step() == {"failed": 5} and len(driver.result.failures) == 5
    assert world.slurm.num_submitted == 1


@pytest.mark.parametrize(
    ("state", "counts"),
    [
        ("CONFIGURING", {"running": 5}),
        ("SUSPENDED", {"running": 5}),
        ("REQUEUED", {"pending": 5}),
        ("COMPLETED", {"ending": 5}),
        ("NODE_FAIL", {"ending": 5}),
        ("PREEMPTED", {"ending": 5}),
        ("A_WORD_OF_A_LATER_SLURM", {"ending": 5}),
        ("TIMEOUT", {"pending": 5}),
        ("CANCELLED", {"pending": 5}),
    ],
)
def test_what_slurm_says(world: World, state: str, counts: dict[str, int]) -> None:
    """What Slurm may begin anew by itself, or whose record may still come to sight, is not submitted again at once."""
    world.step()
    world.slurm.show(state, *(f"7_{place}" for place in range(5)))
    assert world.step() == counts
    assert world.slurm.num_submitted == (2 if counts == {"pending": 5} and state != "REQUEUED" else 1)


def test_a_job_that_is_gone_has_failed_after_a_minute(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.step()
    assert world.step() == {"ending": 5}
    later(monkeypatch, 50)
    assert world.step() == {"ending": 5}
    world.slurm.show("PENDING", "7_4")  # its node came back
    later(monkeypatch, 70)
    assert world.step() == {"pending": 5} and world.slurm.num_submitted == 2
    assert [len(one.tasks) for one in world.submissions()] == [5, 4]
    assert world.submissions()[0].tasks[4].is_over is False
    assert [task.is_over for task in world.submissions()[0].tasks[:4]] == [True] * 4


def test_accounting_tells_what_the_queue_has_forgotten(world: World) -> None:
    world.step()
    world.slurm.write("accounting", "7_0|FAILED|n1\n7_1|CANCELLED by 1000|n2\n7_[2-4]|PENDING|\n8|FAILED|\nodd\n")
    assert world.step() == {"pending": 2, "ending": 3}
    tasks = world.submissions()[0].tasks
    assert [task.state for task in tasks] == ["FAILED", "CANCELLED", "", "", ""] and tasks[1].node == "n2"


def test_a_job_that_accounting_takes_for_running_is_gone_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The controller was killed: the queue has forgotten the job, and nobody closes its account."""
    world.step()
    world.slurm.write("accounting", "".join(f"7_{place}|RUNNING|n1\n" for place in range(5)))
    assert world.step() == {"ending": 5}
    later(monkeypatch, 61)
    assert world.step() == {"pending": 5} and world.slurm.num_submitted == 2


def test_jobs_of_a_driver_that_died_are_found_by_their_name(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It died behind sbatch, before it could write down the ids."""

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        submit.submit(*_)  # type: ignore[arg-type]
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("clipfit_cli.runs.slurm.driver.submit", die)
        world.step()
    (one,) = world.submissions()
    world.slurm.show("RUNNING", *(f"7_{place}" for place in range(5)), name=one.name)
    assert world.step() == {"running": 5} and world.slurm.num_submitted == 1
    assert [task.job for task in world.submissions()[0].tasks] == [f"7_{place}" for place in range(5)]


def test_what_a_driver_did_not_come_to_submit_is_no_failure(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("clipfit_cli.runs.slurm.driver.submit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        world.step()
    assert world.step(retries=0) == {"ending": 5} and world.slurm.num_submitted == 0
    later(monkeypatch, 61)
    assert world.step(retries=0) == {"pending": 5} and world.slurm.num_submitted == 1


def test_a_silent_slurm_is_not_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.step()
    monkeypatch.setattr(calls, "TIMEOUT_S", 0.2)
    world.slurm.write("silence", "")
    world.runs[0].is_recorded = True
    driver = world.driver()
    with pytest.raises(SchedulerError, match=r"squeue gave no answer in 0\.2 s"):
        driver.step()
    assert list(driver.result.finished) == [0] and world.slurm.num_submitted == 1
    with pytest.raises(SchedulerError):
        driver.wait(lambda counts: pytest.fail("there was no answer"))


def test_a_submission_that_hangs_is_left_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "_SUBMIT_S", 0.3)
    world.slurm.write("pause", "")
    with pytest.raises(SchedulerError, match="sbatch gave no answer"):
        world.step()
    assert len(world.submissions()) == 1  # it may have been taken all the same


def test_what_slurm_refuses_leaves_nothing(world: World) -> None:
    world.slurm.write("refusal", "sbatch: error: invalid partition specified: huge\n")
    with pytest.raises(ConfigError, match="Slurm refused the jobs: .*invalid partition specified: huge"):
        world.step(partition="huge")
    assert {path.name for path in (world.folder / FOLDER).iterdir()} == {".lock"}


def test_an_array_is_no_longer_than_slurm_takes(world: World) -> None:
    world.slurm.write("array-size", "3")
    assert world.step() == {"pending": 5}
    assert [[task.job for task in one.tasks] for one in world.submissions()] == [["7_0", "7_1"], ["8_0", "8_1"], ["9"]]
    assert world.slurm.read("controlled") == ["show config"]


def test_a_training_that_is_in_the_queue_for_other_tests_is_not_submitted_beside_it(world: World) -> None:
    """The job makes the training; what is missing of the tests afterwards is no failure of it."""
    world.step()
    world.slurm.show("RUNNING", *(f"7_{place}" for place in range(5)))
    more = [msgspec.structs.replace(run, test_keys=(*run.test_keys, key_of(200))) for run in world.plan.runs]
    world.plan = msgspec.structs.replace(world.plan, runs=tuple(more))
    assert world.step() == {"running": 5}
    world.slurm.show("FAILED", *(f"7_{place}" for place in range(5)))
    assert world.step(retries=0) == {"pending": 5} and world.slurm.num_submitted == 2


def test_what_was_cancelled_is_submitted_anew_and_no_failure(world: World) -> None:
    world.step()
    world.slurm.show("RUNNING", *(f"7_{place}" for place in range(5)))
    known = overview.known_runs(world.folder, world.said.append)
    assert [one.standing.state for one in known] == ["running"] * 5
    overview.cancel(world.folder, known[:2], world.said.append)
    assert world.slurm.read("cancelled") == [f"--quiet --name={world.submissions()[0].name} 7_0 7_1"]
    states = [one.standing.state for one in overview.known_runs(world.folder, world.said.append)]
    assert states == ["cancelled"] * 2 + ["running"] * 3
    assert world.step(retries=0) == {"pending": 2, "running": 3} and world.slurm.num_submitted == 2
    world.slurm.show("FAILED", "8_0", "8_1")
    assert world.step(retries=1) == {"pending": 2, "running": 3}, "they failed once, not twice"


@pytest.mark.parametrize("what", ["failed", "cancelled"])
def test_a_command_that_waits_gives_up_what_fails_or_is_cancelled_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """It does not undo what its user does, nor begin to count anew; neither does one that began beside it."""
    beside, naps = world.driver(retries=0), []

    def sleep(_: float) -> None:
        naps.append(1)
        assert len(naps) < 5, "it never ends"
        if len(naps) == 1:
            world.slurm.show("RUNNING", *(f"7_{place}" for place in range(5)))
            if what == "failed":
                world.slurm.show("FAILED", "7_0")
            else:
                known = overview.known_runs(world.folder, world.said.append)
                overview.cancel(world.folder, known[:1], world.said.append)
        if len(naps) == 3:
            for run in world.runs[1:]:
                run.is_recorded = True

    monkeypatch.setattr("clipfit_cli.runs.slurm.driver.time", SimpleNamespace(sleep=sleep, time=time.time))
    driver = world.driver(retries=0)
    assert plain(driver.wait(lambda _: None)) == {"finished": 4, what: 1}
    assert [config.seed for config, _ in driver.result.failures] == [0] and world.slurm.num_submitted == 1
    assert plain(beside.step()) == {"finished": 4, what: 1} and len(beside.result.failures) == 1
    assert world.slurm.num_submitted == 1
    (state, *_) = [one.standing.state for one in overview.known_runs(world.folder, world.said.append)]
    assert state == what
    assert world.step() == {"finished": 4, "pending": 1}, "a command that begins later does"


def test_jobs_that_sbatch_does_not_know_the_fate_of_are_looked_for(world: World) -> None:
    world.slurm.write(
        "refusal", "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation\n"
    )
    with pytest.raises(SchedulerError, match="Socket timed out"):
        world.step()
    (one,) = world.submissions()
    world.slurm.show("PENDING", *(f"9_{place}" for place in range(5)), name=one.name)
    assert world.step() == {"pending": 5} and world.slurm.num_submitted == 0


@pytest.mark.parametrize("seed", range(10))
def test_hostile_hints_are_left_out_and_told(world: World, seed: int) -> None:
    """No result depends on a hint: the worst is that a run is submitted again, which then finds its record."""
    world.step()
    (one,) = world.submissions()
    path, random_ = world.folder / FOLDER / f"{one.name}.json", random.Random(seed)
    content = path.read_bytes()
    changes: list[Callable[[], bytes]] = [
        lambda: content[: random_.randrange(len(content))],
        lambda: b"[" * 100_000,
        lambda: content.replace(b'"version":1', b'"version":2'),
        lambda: content.replace(one.name.encode(), b"clipfit-other", 1),
        lambda: content.replace(b'"dtd"', b"7"),
        lambda: content.replace(one.submitted_at.encode(), b"yesterday"),
        lambda: content.replace(b'"shots":1', b'"shots":-1'),
        lambda: content.replace(b'"job":"7_0"', b'"job":"--user=root"'),
        lambda: random_.randbytes(1000),
        lambda: b"",
    ]
    path.write_bytes(changes[seed % len(changes)]())
    world.said.clear()
    assert world.submissions() == []
    assert len(world.said) == 1 and world.said[0].startswith(f"left out {path}, which cannot be read: ")
    assert len(world.said[0]) < 600


def test_waiting_ends_when_all_is_recorded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm is silent for a while, which is said and waited for."""
    naps: list[float] = []
    timeout_s = calls.TIMEOUT_S

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 1:
            world.slurm.show("RUNNING", *(f"7_{place}" for place in range(5)))
        if len(naps) == 2:
            world.slurm.write("silence", "")
            monkeypatch.setattr(calls, "TIMEOUT_S", 0.1)
        if len(naps) == 3:
            monkeypatch.setattr(calls, "TIMEOUT_S", timeout_s)
            (world.slurm.folder / "silence").unlink()
            for run in world.runs:
                run.is_recorded = True

    monkeypatch.setattr("clipfit_cli.runs.slurm.driver.time", SimpleNamespace(sleep=sleep))
    seen: list[dict[str, int]] = []
    counts = world.driver().wait(lambda now: seen.append(plain(now)))
    assert counts == {"finished": 5} and seen == [{"pending": 5}, {"running": 5}, {"finished": 5}]
    assert naps == [2.0, 3.0, 15.0] and "asked again" in world.said[-1]


def test_where_a_file_system_has_no_locks_the_hints_do(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipfit_cli.runs.slurm.submissions.has_locks", lambda folder: False)
    with submissions.held(world.folder, pytest.fail), submissions.held(world.folder, pytest.fail):
        assert world.step() == {"pending": 5}
        world.slurm.show("PENDING", *(f"7_{place}" for place in range(5)))
        assert world.step() == {"pending": 5} and world.slurm.num_submitted == 1


def test_who_holds_the_folder_for_long_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submissions, "_LOCK_S", 0.1)
    waits: list[str] = []
    with (
        submissions.held(world.folder, pytest.fail),
        pytest.raises(ResultsError, match="another command has held"),
        submissions.held(world.folder, lambda: waits.append("")),
    ):
        pytest.fail("two at a time")
    assert waits == [""]


def test_who_waits_outlasts_another_that_holds_the_folder(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sbatch hangs, for as long as it is waited for."""
    monkeypatch.setattr(submissions, "_LOCK_S", 0.1)
    other, naps = ExitStack(), list[float]()

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 1:
            other.enter_context(submissions.held(world.folder, pytest.fail))
        if len(naps) == 2:
            other.close()
            for run in world.runs:
                run.is_recorded = True

    monkeypatch.setattr("clipfit_cli.runs.slurm.driver.time", SimpleNamespace(sleep=sleep))
    assert plain(world.driver().wait(lambda _: None)) == {"finished": 5} and len(naps) == 2
    assert "another command has held" in world.said[-1] and "asked again" in world.said[-1]
