"""What reaches sbatch, what it says to that, and what becomes of jobs that wait or are done; Slurm itself is faked."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from clipfit_cli.errors import ConfigError, SchedulerError
from clipfit_cli.runs.slurm import calls, overview, submissions
from clipfit_cli.runs.slurm.submissions import FOLDER, Handed
from clipfit_cli.runs.slurm.submit import QueueFull
from tests.slurm.world import World, key_of

JOBS = tuple(f"7_{place}" for place in range(5))


def names(lines: list[str]) -> set[str]:
    """Return the names of the variables of an environment."""
    return {line.partition("=")[0] for line in lines}


def test_the_environment_says_nothing_against_what_is_asked_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """For sbatch it goes before the lines of a script; a job of another name would never be found again."""
    against = {"SBATCH_PARTITION", "SBATCH_JOB_NAME", "SBATCH_TIMELIMIT", "SBATCH_WAIT", "SBATCH_MEM_PER_CPU"}
    for name in (*against, "SBATCH_QOS"):
        monkeypatch.setenv(name, "1")
    world.step(partition="gpu", memory="1G")
    assert names(world.slurm.read("environment-1")) & {*against, "SBATCH_QOS"} == {"SBATCH_QOS"}
    assert set(os.environ) >= against
    world.slurm.show("FAILED", *JOBS)
    world.step()
    assert names(world.slurm.read("environment-2")) & against == {"SBATCH_PARTITION", "SBATCH_MEM_PER_CPU"}


def test_a_job_takes_nothing_from_the_job_that_its_command_is_typed_in(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its srun would take what that has for what was asked for, and end at once."""
    monkeypatch.setenv("SLURM_CPU_BIND", "none")
    world.step()
    assert "SLURM_CPU_BIND" in names(world.slurm.read("environment-1"))
    of_job = {"SLURM_JOB_ID", "SLURM_MEM_PER_CPU", "SLURM_ARRAY_JOB_ID", "SLURM_CPU_BIND"}
    for name in (*of_job, "SLURM_CONF"):
        monkeypatch.setenv(name, "1")
    world.slurm.show("FAILED", *JOBS)
    world.step()
    found = names(world.slurm.read("environment-2"))
    assert not found & of_job and "SLURM_CONF" in found


def test_no_job_is_hidden_by_the_environment(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQUEUE_PARTITION", "another")
    world.step()
    world.step()
    assert "SQUEUE_PARTITION" not in names(world.slurm.read("squeue-environment"))


@pytest.mark.parametrize("words", ["", "a note of this site", "\x1b[2J" * 1000])
def test_where_sbatch_names_no_job_the_next_command_looks_for_it(world: World, words: str) -> None:
    world.slurm.write("words", words)
    with pytest.raises(SchedulerError, match="sbatch named no job") as caught:
        world.step()
    assert len(str(caught.value)) < 400
    (one,) = world.submissions()
    world.slurm.show("RUNNING", *JOBS, name=one.name)
    assert world.step() == {"running": 5} and world.slurm.num_submitted == 1


def test_the_line_that_says_why_is_told_and_no_note_before_it(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    world.slurm.write(
        "refusal", "sbatch: NOTE: connect to our wiki\nsbatch: error: invalid account\nsbatch: error: failed\n"
    )
    with pytest.raises(ConfigError, match=r"^Slurm refused the jobs: invalid account$"):
        world.step()
    world.slurm.write("refusal", "")
    with pytest.raises(ConfigError, match="sbatch fails and says nothing"):
        world.step()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("character", ["%", "\\", "\n"])
def test_a_folder_whose_name_slurm_reads_otherwise_is_refused(world: World, character: str) -> None:
    setup = world.plan.setup
    world.plan = msgspec.structs.replace(world.plan, setup=replace(setup, runs_dir=f"{setup.runs_dir}{character}j"))
    with pytest.raises(ConfigError, match="choose another --runs-dir"):
        world.step()
    assert world.slurm.num_submitted == 0 and not world.submissions()


def test_so_many_jobs_are_submitted_as_slurm_takes(world: World) -> None:
    """Others wait until some are over, and that is no failure."""
    world.slurm.write("room", "3")
    driver = world.driver()
    assert driver.step() == {"pending": 2, "new": 3}
    assert sum("Slurm takes no more jobs now: QOSMaxSubmitJobPerUserLimit" in text for text in world.said) == 1
    world.slurm.show("RUNNING", "7_0", "7_1")
    assert driver.step() == {"running": 2, "new": 3} and len(world.said) == 2, "it is said once"
    world.slurm.write("room", "3")
    assert driver.step() == {"running": 2, "pending": 3} and world.slurm.num_submitted == 2
    assert len(world.submissions()) == 2 and len([*(world.folder / FOLDER).glob("clipfit-*")]) == 4


def test_a_command_that_waits_repeats_nothing(world: World) -> None:
    """A hint that cannot be read, and a run that failed and that a full queue keeps from being submitted again."""
    world.step()
    (world.folder / FOLDER / "clipfit-damaged.json").write_text("{")
    world.slurm.show("FAILED", "7_0")
    world.slurm.show("RUNNING", *JOBS[1:])
    world.slurm.write("room", "0")
    world.said.clear()
    driver = world.driver()
    assert driver.step() == driver.step() == {"failed": 1, "running": 4}
    assert [text.split(":")[0] for text in world.said] == [
        f"left out {world.folder / FOLDER / 'clipfit-damaged.json'}, which cannot be read",
        "clipfit on dtd, seed 0 failed, submitted again",
        "Slurm takes no more jobs now",
    ]


def test_where_slurm_takes_no_job_at_all_it_is_an_error(world: World) -> None:
    world.slurm.write("room", "0")
    with pytest.raises(QueueFull):
        world.step()
    assert {path.name for path in (world.folder / FOLDER).iterdir()} == {".lock"}


def test_what_will_not_begin_by_itself_is_told_once(world: World) -> None:
    world.step()
    world.slurm.show("PENDING", *JOBS[:3], reason="JobHeldUser")
    world.slurm.show("PENDING", *JOBS[3:], reason="Priority")
    world.said.clear()
    driver = world.driver()
    assert driver.step() == driver.step() == {"pending": 5}
    assert world.said == [
        "Slurm does not begin 3 runs as things are (JobHeldUser): `scontrol show job 7_0` tells more, "
        "`clipfit cancel` ends them"
    ]
    assert [task.reason for task in world.submissions()[0].tasks] == ["JobHeldUser"] * 3 + ["Priority"] * 2
    world.slurm.show("RUNNING", *JOBS)
    world.step()
    assert {task.reason for task in world.submissions()[0].tasks} == {""}


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETED"])
def test_a_record_that_is_removed_later_is_no_failure(world: World, state: str) -> None:
    """A command saw it, while the job was still there or not; whoever types it again wants the run again."""
    world.step()
    world.slurm.show(state, *JOBS)
    for run in world.runs:
        run.is_recorded = True
    assert world.step() == {"finished": 5}
    for run in world.runs:
        run.is_recorded = False
    assert world.step(retries=0) == {"pending": 5} and world.slurm.num_submitted == 2
    assert "failed" not in "\n".join(world.said)


def test_other_tests_of_a_run_do_not_wait_for_a_job_that_is_done(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.step()
    world.slurm.show("COMPLETED", *JOBS)
    monkeypatch.setattr(Handed, "is_finished", lambda run, runs_dir: runs_dir == world.folder and run.key != key_of(4))
    more = [msgspec.structs.replace(run, test_keys=(*run.test_keys, key_of(200))) for run in world.plan.runs]
    world.plan = msgspec.structs.replace(world.plan, runs=tuple(more))
    assert world.step(retries=0) == {"pending": 4, "ending": 1} and world.slurm.num_submitted == 2


def test_runs_are_remembered_by_where_they_lie_in_the_runs_folder(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that any folder may be the current one later, and the runs folder may be moved."""
    monkeypatch.chdir(world.folder.parent)
    world.runs[0].folder = Path("runs", "mine", "a")
    world.runs[1].folder = world.folder / "mine" / "b"
    world.step()
    tasks = world.submissions()[0].tasks
    assert [task.runs[0].folder for task in tasks[:3]] == ["mine/a", "mine/b", str(world.runs[2].folder)]


def test_what_slurm_does_not_end_is_not_taken_for_ended(world: World) -> None:
    """Where it says nothing the jobs are gone, or another's: of another cluster, whose ids are the same."""
    world.step()
    world.slurm.show("RUNNING", *JOBS)
    world.slurm.write("denial", "scancel: error: Kill job error on job id 7: Access/permission denied\n")
    known = overview.known_runs(world.folder, world.said.append)
    with pytest.raises(SchedulerError, match="^scancel failed: Kill job error on job id 7: Access/permission denied$"):
        overview.cancel(world.folder, known, world.said.append)
    assert {task.is_over for task in world.submissions()[0].tasks} == {False}
    world.slurm.write("denial", "")
    for _ in range(2):
        overview.cancel(world.folder, known, world.said.append)
        assert {task.is_over for task in world.submissions()[0].tasks} == {True}
        assert len(world.slurm.read("cancelled")) == 2, "what is over is not ended once more"


def test_a_folder_that_is_held_or_somebody_elses_can_be_looked_at(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.step()
    world.slurm.show("RUNNING", *JOBS)
    monkeypatch.setattr(submissions, "_LOCK_S", 0.05)
    with submissions.held(world.folder, pytest.fail):
        known = overview.known_runs(world.folder, world.said.append)
    assert [one.standing.state for one in known] == ["running"] * 5
    assert "how the jobs stand is shown and not written down" in world.said[-1]
    assert {task.state for task in world.submissions()[0].tasks} == {""}


def test_what_a_command_says_that_fails_in_silence(world: World) -> None:
    (world.slurm.folder / "bin" / "scontrol").write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(SchedulerError, match="scontrol failed: exit code 3, and it says nothing"):
        calls.requeue("7")
