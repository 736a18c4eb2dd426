"""What comes from outside, as a shell sees it: paths, permissions, streams, signals, terminals, empty variables."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from clipfit_cli.cli.app import app
from clipfit_cli.cli.output_options import check_can_be_written, csv_file
from clipfit_cli.errors import ConfigError

pytestmark = pytest.mark.slow  # seconds in all; the long check has them

LONG = "x" * 300
DIGITS = "1" * 5000
NO_RIGHTS = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
"""Takes from root the right to read everything; others lack it anyway."""


def clipfit(*arguments: str, prefix: tuple[str, ...] = (), **kinds: object) -> subprocess.CompletedProcess[str]:
    """Run a command; `kinds` as for `subprocess.run`, with `env` beside the environment of the tests."""
    env = {**os.environ, **kinds.pop("env", {})}  # type: ignore[dict-item]
    kinds = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "timeout": 100, **kinds}
    command = [*prefix, sys.executable, "-m", "clipfit_cli", *arguments]
    return subprocess.run(command, env=env, **kinds)  # type: ignore[call-overload, no-any-return]


def invoke(*arguments: str) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder but for a picture that is none."""
    (tmp_path / "a.jpg").touch()
    monkeypatch.chdir(tmp_path)


def in_terminal(*arguments: str, **env: str) -> str:
    """Return what a command shows in a terminal, escapes and all."""
    import pty

    ours, theirs = pty.openpty()
    try:
        clipfit(*arguments, stdout=theirs, stderr=theirs, stdin=theirs, env={"TERM": "xterm", **env})
        return os.read(ours, 100_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)


PLAN = ["train", "--dataset", "dtd", "--dry-run"]


@pytest.mark.parametrize(
    "arguments",
    [
        *(
            [*PLAN, option, f"{value}"]
            for option in ("--runs-dir", "--class-names", "--csv")
            for value in ("~no-one/x",)
        ),
        [*PLAN, "--data-root", "~no-one/x"],
        [*PLAN, "--pretrained", "~no-one/x"],
        [*PLAN, "--backbone", "~no-one/x"],
        ["data", "cache", "--image-cache", "~no-one/x"],
        ["predict", "--adapter", "~no-one/x", "a.jpg"],
        ["predict", "--adapter", "x", "~no-one/a.jpg"],
        ["export", "~no-one/x", "--out", "y"],
        ["export", "x", "--out", "~no-one/y"],
    ],
    ids=" ".join,
)
def test_the_home_of_nobody(arguments: list[str]) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2 and "no user of that name here; give the whole path" in result.stderr, result


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([*PLAN, "--csv", LONG], 3, "give a shorter name"),
        ([*PLAN, "--dataset", "textures", "--pretrained", LONG], 0, "cannot be told"),
        ([*PLAN, "--backbone", LONG], 2, "unknown backbone"),
        (["data", "list", "--data-root", LONG], 0, "missing"),
        (["predict", "--adapter", "x", LONG], 3, "there is no such image or folder"),
        (["export", "x", "--out", LONG], 2, "File name too long; name another folder"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_names_that_are_too_long(arguments: list[str], code: int, message: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == code and message in result.output, result
    assert len(result.stderr) < 2000, "a name is not repeated without end"


def test_a_plan_whose_weights_are_not_here_says_so_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "none"))
    plan = ["train", "--dataset", "textures", "--dry-run", "--offline", "--backbone", "ViT-B-16"]
    shown, plain = invoke(*plan), invoke(*plan, "--json", "--quiet")
    assert "cannot be told: the weights" in shown.stdout and shown.stdout.split()[-1] == "FILE"
    assert "cannot be told" not in plain.output and "cannot be told: the weights" in invoke(*plan, "--json").stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "x", "--out"], "--out /dev/null/x cannot be made: /dev/null is no folder; name another"),
        (["push", "x", "org/name", "--dry-run"], "--dry-run /dev/null/x cannot be made: /dev/null is no folder"),
        ([*PLAN, "--csv"], "--csv /dev/null/x lies in what is no folder; give a file in a folder of yours"),
        (["report", "--format", "json", "--out"], "--out /dev/null/x lies in what is no folder"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_no_folder_is_made_of_a_device(arguments: list[str], message: str) -> None:
    result = invoke(*arguments, "/dev/null/x")
    assert result.exit_code == 2 and message in result.stderr and result.stdout == "", result


def test_a_link_that_leads_round_in_a_circle_is_no_file() -> None:
    Path("round").symlink_to("round")
    result = invoke(*PLAN, "--csv", "round")
    assert result.exit_code == 2 and "--csv round is a link that leads round in a circle" in result.stderr, result
    assert Path("round").is_symlink()


def test_a_path_that_is_no_utf8_is_printed_as_it_is() -> None:
    result = invoke("data", "path", "--data-root", "a\udcff")
    assert result.exit_code == 0 and result.stdout_bytes.endswith(b"a\xff\n"), result


def test_a_long_list_of_classes_is_no_path() -> None:
    names = ",".join(f"class number {i}" for i in range(40))
    result = invoke("predict", "--adapter", "no-run", "a.jpg", "--classes", names)
    assert result.exit_code == 4 and "no adapter at" in result.stderr


@pytest.mark.parametrize("text", ["./typo.txt", "names.json", "lists/typo"])
def test_a_mistyped_file_of_class_names_is_said_to_be_missing(text: str) -> None:
    result = invoke("predict", "--adapter", "no-run", "a.jpg", "--classes", text)
    assert result.exit_code == 2 and f"there is no file {text}" in result.stderr


def test_a_json_list_of_class_names_is_no_comma_list() -> None:
    result = invoke("predict", "--adapter", "no-run", "a.jpg", "--classes", '["cat", "dog"]')
    assert result.exit_code == 2 and "no comma list of class names; JSON stands in a file" in result.stderr


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root reads everything")
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["data", "list"], 0, "`clipfit data get NAME` fetches one"),
        (["train", "--dry-run"], 0, "using the built-in 'textures'"),
        (["export", "home/x", "--out", "y"], 4, "Permission denied"),
    ],
    ids=["list", "plan", "export"],
)
@pytest.mark.slow
def test_folders_that_may_not_be_read(arguments: list[str], code: int, message: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0)
    try:
        result = clipfit(
            *arguments, prefix=tuple(NO_RIGHTS) if os.geteuid() == 0 else (), cwd=tmp_path, env={"HOME": str(home)}
        )
    finally:
        home.chmod(0o700)
    assert result.returncode == code and message in result.stderr, result
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments", [["data", "path", "--data-root", "x"], ["methods", "--csv", "x.csv"], ["methods"]]
)
def test_a_current_folder_that_is_gone(arguments: list[str], tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    result = clipfit(*arguments, prefix=("sh", "-c", f'rmdir "{gone}"; exec "$@"', "sh"), cwd=gone)
    assert result.returncode == 3 and "the current folder: No such file" in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no such device")
@pytest.mark.parametrize("arguments", [["methods"], ["methods", "--csv", "-"], ["--help"]])
@pytest.mark.slow
def test_a_stdout_that_takes_nothing(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        result = clipfit(*arguments, stdout=full)
    assert result.returncode == 3 and result.stderr.startswith("error: stdout: No space left on device")
    closed = clipfit(*arguments, prefix=("sh", "-c", 'exec "$@" >&-', "sh"))
    assert closed.returncode == 3 and closed.stderr.startswith("error: stdout: ")
    reader, writer = os.pipe()
    os.close(reader)
    unread = clipfit(*arguments, stdout=writer)
    os.close(writer)
    assert (unread.returncode, unread.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no such device")
@pytest.mark.parametrize("how", ["2>&-", "2>/dev/full"])
@pytest.mark.slow
def test_a_stderr_that_takes_nothing_stops_no_work(how: str) -> None:
    result = clipfit("data", "list", "--data-root", "nowhere", prefix=("sh", "-c", f'exec "$@" {how}', "sh"))
    assert result.returncode == 0 and "textures" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--dataset", ""],
        ["train", "--dataset", ","],
        ["train", "--dataset", "dtd,"],
        ["train", "--dataset", "dtd", "--method", "clipfit,"],
        ["train", "--dataset", "dtd", "--template", " "],
        ["train", "--dataset", "dtd", "--runs-dir", ""],
        ["xdataset", "--source", "dtd", "--target", ""],
        ["compare", "--dataset", "dtd", "--baseline", ""],
        ["methods", "--csv", ""],
        ["models", ""],
        ["data", "get", ""],
        ["data", "show", ""],
        ["data", "list", "--data-root", ""],
        ["predict", "", "--adapter", "x"],
        ["predict", "a.jpg", "--adapter", ""],
        ["predict", "a.jpg", "--adapter", "x", "--classes", ""],
        ["export", "x", "--out", ""],
    ],
    ids=" ".join,
)
def test_an_empty_variable_is_an_error(arguments: list[str]) -> None:
    plan = ["--dry-run"] if arguments[0] in ("train", "xdataset", "compare") else []
    result = invoke(*arguments, *plan)
    assert result.exit_code == 2, result
    assert "variable of the shell" in " ".join(result.stderr.replace("│", " ").split())
    assert result.stdout == ""


@pytest.mark.parametrize("option", ["--seeds", "--shots", "--epochs", "--batch-size"])
@pytest.mark.parametrize("text", [DIGITS, DIGITS[:4000], str(2**64), str(2**32)])
def test_numbers_beyond_all_use(option: str, text: str) -> None:
    result = invoke(*PLAN, option, text)
    assert result.exit_code == 2 and option.strip("-") in result.stderr and len(result.stderr) < 1500


def test_the_csv_file_is_looked_at_before_anything_runs(tmp_path: Path) -> None:
    result = invoke("train", "--dataset", "nothing-that-is", "--csv", str(tmp_path))
    assert result.exit_code == 2 and f"--csv {tmp_path} is a folder" in result.stderr


FOREIGN = {
    "record.json": b'{"schema_version": 3}',
    "adapter_model.safetensors": b"\x10\0\0\0\0\0\0\0{}",
    "steps.csv": b"epoch,step,loss\n",
    "split.json": b'{"train": []}',
    "photo.png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "list.csv": b"path,label,class_name,split\n",
    "table.csv": b"name,kind,born\nrex,dog,2019\n",
    "page.html": b"<!DOCTYPE html>\n<title>Mine</title>",
    "newline": b"\n",
}


@pytest.mark.parametrize("form", ["csv", "html", "markdown", "latex", "json", "pdf", "svg", "png"])
def test_an_output_replaces_nothing_that_is_none_of_its_kind(form: str, tmp_path: Path) -> None:
    for name, content in FOREIGN.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=f"--out .*{name} is there and was not written by clipfit as {form}"):
            check_can_be_written("--out", str(tmp_path / name), form)
    (tmp_path / "empty").touch()
    for name in ("empty", "new"):
        check_can_be_written("--out", str(tmp_path / name), form)
    (tmp_path / "empty").chmod(0o444)
    with pytest.raises(ConfigError, match="is read-only; give another name"):
        check_can_be_written("--out", str(tmp_path / "empty"), form)


@pytest.mark.parametrize(
    "arguments", [["methods"], ["methods", "show", "coop"], ["models", "kinds"], ["data", "list"], ["data", "shifts"]]
)
def test_an_output_replaces_what_it_wrote(arguments: list[str], tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    for _ in range(2):
        assert invoke(*arguments, "--csv", str(table)).exit_code == 0
    refused = invoke("report", "--out", str(table.rename(tmp_path / "table.html")))
    assert refused.exit_code == 2 and "was not written by clipfit as html" in refused.stderr


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no such folder")
def test_what_lies_below_dev_is_replaced_whole_if_it_is_a_file() -> None:
    assert csv_file("/dev/shm/table.csv") == (Path("/dev/shm/table.csv"), True)
    assert [csv_file(f"/dev/{name}")[1] for name in ("null", "stdout", "fd/1")] == [False] * 3


@pytest.mark.slow
def test_csv_replaces_files_whole_and_writes_into_pipes_and_links(tmp_path: Path) -> None:
    table, link, pipe = (tmp_path / name for name in ("table.csv", "link.csv", "pipe"))
    table.touch()
    link.symlink_to(table)
    before = table.stat().st_ino
    assert clipfit("methods", "--csv", str(link)).returncode == 0
    assert link.is_symlink() and table.stat().st_ino != before and table.read_text().startswith("method,")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "link.csv", "table.csv"]
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True)
    assert clipfit("methods", "--csv", str(pipe)).returncode == 0
    assert reader.communicate()[0] == table.read_text() and stat.S_ISFIFO(pipe.stat().st_mode)
    with (tmp_path / "out").open("w") as out:
        assert clipfit("methods", "--csv", "/dev/stdout", stdout=out).returncode == 0
    assert table.read_text() in (tmp_path / "out").read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no such device")
def test_a_csv_file_that_takes_nothing_costs_not_the_table() -> None:
    result = clipfit("methods", "--csv", "/dev/full")
    assert result.returncode == 3 and "cannot write /dev/full" in result.stderr and "layer-norm" in result.stdout


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
@pytest.mark.slow
def test_no_colour_where_none_is_wanted(env: dict[str, str]) -> None:
    assert "\x1b[31m" in in_terminal("train", "--dataset", "dtdd")
    assert "\x1b" not in in_terminal("train", "--dataset", "dtdd", **env)
    assert "\x1b[3" not in in_terminal("methods", "--help", **env)


@pytest.mark.parametrize("columns", ["0", "1", "1" * 5000])
def test_an_odd_width_is_none(columns: str) -> None:
    result = clipfit("methods", env={"COLUMNS": columns})
    assert result.returncode == 0 and "layer-norm" in result.stdout
    assert "--out" in clipfit("plot", "shots", env={"COLUMNS": columns}).stderr, "what is missing can be read"


@pytest.mark.slow
def test_names_that_stdout_cannot_encode(tmp_path: Path) -> None:
    (tmp_path / "köln\x1b[31m" / "cat").mkdir(parents=True)
    arguments = ["eval", "--dataset", f"MINE={tmp_path}/köln\x1b[31m", "--dry-run"]
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    missing = clipfit("data", "show", f"{tmp_path}/köln\x1b[31m/no", env=ascii_only)
    assert "ln\\x1b[31m/no" in missing.stderr and "Traceback" not in missing.stderr
    named = ["train", "--dataset", "dtd", "--template", "ein Bild von {}, schön", "--dry-run"]
    assert "sch\xf6n" in clipfit(*named, "--csv", "-", env=ascii_only, encoding="utf-8").stdout
    assert clipfit(*arguments, env=ascii_only).returncode == 0


@pytest.mark.parametrize(
    ("number", "module"),
    [
        (signal.SIGINT, "clipfit_cli.process"),
        (signal.SIGINT, "typer"),
        (signal.SIGINT, "pydantic"),
        (signal.SIGTERM, "typer"),
        (signal.SIGTERM, "clipfit_cli.reports.terminal"),
        (signal.SIGHUP, "clipfit_cli.reports.terminal"),
    ],
)
def test_a_signal_while_the_command_is_still_being_read(number: signal.Signals, module: str) -> None:
    """Whatever is imported just then."""
    code = f"""
import os, signal, sys
signal.signal({int(number)}, signal.SIG_DFL)  # which nohup, or a shell's background, would have it ignore
signal.signal(signal.SIGINT, signal.default_int_handler)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), {int(number)})
sys.meta_path.insert(0, Finder())
sys.argv = ["clipfit", "methods"]
from clipfit_cli.__main__ import main
main()
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 128 + number, result.stderr
    word = "interrupted" if number == signal.SIGINT else "terminated"
    assert result.stderr == f"{word}; what is finished is kept, the same command goes on from here\n"


def test_signals_that_the_process_was_made_to_ignore_stay_ignored() -> None:
    code = """
import signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from clipfit_cli import process
process.set_up()
assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN != signal.getsignal(signal.SIGTERM)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
