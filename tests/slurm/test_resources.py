"""What a job asks for: options over files of defaults, each value checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipfit_cli.errors import ConfigError
from clipfit_cli.runs.slurm import resources
from clipfit_cli.runs.slurm.resources import DEFAULTS_FILE, Resources, default_files, minutes_of, resolve


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90", 90),
        ("1:30", 2),
        ("0:30", 1),
        ("4:00:00", 240),
        ("0:00:01", 1),
        ("1-0", 1440),
        ("1-12:30", 2190),
        ("2-00:00:01", 2881),
    ],
)
def test_time_limits_are_read_as_slurm_reads_them(text: str, minutes: int) -> None:
    assert minutes_of(text) == minutes


@pytest.mark.parametrize("text", ["", "0", "0:00:00", "-5", "4h", "1:2:3:4", "1-", "infinite", "٣", "1" * 9, "4:00\n"])
def test_what_is_no_time_limit_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no time limit; expected minutes"):
        minutes_of(text)


def test_what_is_typed_goes_before_the_files_and_the_first_file_before_the_second(tmp_path: Path) -> None:
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    first.write_text('partition = "short"\nruns-per-job = 4\nsetup = ["module load cuda"]\n')
    second.write_text(
        'partition = "long"\naccount = "lab"\nruns-per-job = 8\n[sbatch]\nqos = "high"\nexclusive = true\n'
    )
    found = resolve({"partition": "gpu", "memory": None, "gpus": 0}, (first, tmp_path / "none.toml", second))
    assert found == Resources(
        partition="gpu",
        account="lab",
        gpus=0,
        runs_per_job=4,
        setup=("module load cuda",),
        sbatch={"qos": "high", "exclusive": True},
    )


def test_the_files_are_beside_the_runs_and_in_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "user_config_path", lambda *_, **__: tmp_path / "config")
    assert default_files(tmp_path) == (tmp_path / DEFAULTS_FILE, tmp_path / "config" / DEFAULTS_FILE)


def test_what_submitit_is_given() -> None:
    asked = Resources(partition="gpu", time="2", cpus=3, memory="16G", runs_per_job=5, sbatch={"qos": "high"})
    assert asked.parameters() == {
        "partition": "gpu",
        "gpus_per_node": 1,
        "cpus_per_task": 3,
        "mem": "16G",
        "srun_args": ["--cpus-per-task=3"],
        "time": 2,
        "signal_delay_s": 40,
        "array_parallelism": 256,
        "stderr_to_stdout": True,
        "additional_parameters": {"requeue": True, "qos": "high"},
    }
    assert Resources(gpus=0, time="1-0").parameters().keys() & {"gpus_per_node", "cpus_per_task", "setup"} == set()
    assert Resources(time="1-0").parameters()["signal_delay_s"] == 90
    assert resolve({"memory": "16gb"}, ()).parameters()["mem"] == "16gb"
    flags = Resources(sbatch={"exclusive": True, "contiguous": False}).parameters()["additional_parameters"]
    assert flags == {"requeue": True, "exclusive": True}, "what is false is not asked for"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("partition", "a b"),
        ("partition", "x\n#SBATCH --wrap=rm"),
        ("partition", "x\n"),
        ("account", ""),
        ("account", "a" * 5000),
        ("memory", "16 G"),
        ("memory", "lots"),
        ("gpus", -1),
        ("gpus", 10**9),
        ("cpus", 0),
        ("runs_per_job", 0),
        ("array_parallelism", 2**40),
        ("time", "soon"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve({name: value}, ())
    assert len(str(caught.value)) < 500 and "expected" in str(caught.value) and "regex" not in str(caught.value)


def test_a_file_may_say_minutes_and_megabytes_as_numbers(tmp_path: Path) -> None:
    path = tmp_path / DEFAULTS_FILE
    path.write_text("time = 90\nmemory = 16000\n")
    found = resolve({}, (path,))
    assert (found.time, found.memory) == ("90", "16000")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("partition = ", "is no TOML"),
        ("\x00", "is no TOML"),
        ("[" * 50_000, "is no TOML"),
        ("partitoin = 'x'", "the unknown name 'partitoin'; known are partition, account, time, gpus"),
        ("gpus = 'two'", "gpus is 'two'; expected a number from 0 to 1,000"),
        ("setup = 'module load'", "setup is 'module load'; expected a list of lines"),
        ('setup = ["a\\nb"]', "; expected a "),
        ("time = 'soon'", "is no time limit"),
        ("[sbatch]\narray = '1-5'", "array of sbatch cannot be set"),
        ("[sbatch]\n'job_name' = 'mine'", "job_name of sbatch cannot be set"),
        ("[sbatch]\n'a b' = 1", "; expected a "),
        ("[sbatch]\nwait = true", "wait of sbatch cannot be set"),
        ("[sbatch]\nntasks-per-node = 4", "ntasks-per-node of sbatch cannot be set"),
        (
            "[sbatch]\npartition = 'gpu'\nmem = '1G'",
            "mem, partition of [sbatch] has a name of its own: write memory, partition above it",
        ),
        ("[sbatch]\nqos = [1]", "sbatch is {'qos': [1]}; expected a table of options of sbatch"),
        ("cpus = true", "cpus is True; expected a number from 1"),
        ("memory = true", "memory is True; expected a size such as 16G"),
        ("time = 1.5", "time is 1.5; expected a time limit"),
    ],
)
def test_what_a_file_of_defaults_cannot_say(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / DEFAULTS_FILE
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        resolve({}, (path,))
    assert str(path) in str(caught.value) and said in str(caught.value) and len(str(caught.value)) < 600


def test_a_folder_is_no_file_of_defaults(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        resolve({}, (tmp_path,))
