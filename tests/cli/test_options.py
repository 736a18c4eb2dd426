"""Options, fields and defaults cannot part."""

from __future__ import annotations

import dataclasses
import json

import pytest
import typer
from typer.testing import CliRunner

from clipfit_cli.cli import model_options, options
from clipfit_cli.cli.app import app
from clipfit_cli.cli.errors import reported
from clipfit_cli.config import Execution, ModelConfig, Recipe, Request
from clipfit_cli.errors import ClipfitError, ConfigError
from clipfit_cli.process import Terminated
from tests.update_docs import commands

RUNNER = CliRunner()
COMMANDS = {
    command.name or command.callback.__name__: command for command in app.registered_commands if command.callback
}
RUNNING = ("train", "base2new", "xdataset", "compare", "robustness")
EVERYWHERE = {
    "backbone",
    "pretrained",
    "device",
    "precision",
    "compile",
    "recompute",
    "deterministic",
    "checkpoint_every",
    "offline",
    "data_root",
    "image_cache",
    "image_cache_size",
    "runs_dir",
    "csv",
    "json",
    "quiet",
    "dry_run",
    "force",
}
TRAINING = {"shots", "seeds", "method", "set_", "epochs", "batch_size", "lr", "tune", "val_shots"}


def parameters(name: str) -> set[str]:
    import inspect

    callback = COMMANDS[name].callback
    assert callback is not None
    return set(inspect.signature(callback).parameters)


def test_lines_of_help_end_where_the_terminal_does() -> None:
    """Typer keeps the line ends of a second paragraph."""
    texts = [command.help for words, command in commands().items() if words]
    assert len(texts) > 25 and any("\n\n" in text for text in texts)
    assert not [text for text in texts if "\n" in text.replace("\n\n", "")]


def test_the_commands() -> None:
    assert set(COMMANDS) == {
        "train",
        "eval",
        "base2new",
        "xdataset",
        "compare",
        "results",
        "published",
        "report",
        "plot",
        "reproduce",
        "robustness",
        "sensitivity",
        "predict",
        "export",
        "jobs",
        "cancel",
        "push",
        "inspect",
    }
    assert {group.name for group in app.registered_groups} == {"data", "methods", "models", "runs"}


def test_an_adapter_is_used_with_the_options_of_the_other_commands() -> None:
    assert parameters("predict") >= {"backbone", "pretrained", "device", "precision", "csv", "json", "quiet"}
    assert parameters("export") >= {"backbone", "pretrained", "force", "quiet"}


@pytest.mark.parametrize("name", [*RUNNING, "eval"])
def test_the_same_options_everywhere(name: str) -> None:
    assert parameters(name) >= EVERYWHERE
    if name in RUNNING:
        assert parameters(name) >= TRAINING


def test_options_cover_the_configuration() -> None:
    """Every field that a user may set has an option of its name; the rest is named here with its reason."""
    offered = parameters("train") | parameters("compare")
    common = {"epochs", "batch_size", "lr"}  # the rest of a recipe is a method's own, for --set
    recipe = {field.name for field in dataclasses.fields(Recipe)} & common
    model = {field.name for field in dataclasses.fields(ModelConfig)}
    plural = {"datasets": "dataset", "methods": "method", "targets": "target", "shifts": "shift"}
    request = {plural.get(field.name, field.name) for field in dataclasses.fields(Request)} - {"model"}
    execution = {field.name for field in dataclasses.fields(Execution)}
    assert recipe == common and recipe | model | request | execution <= offered


def test_defaults_come_from_the_configuration() -> None:
    assert model_options.ModelOptions().bn == ModelConfig().bn
    request = Request(datasets=("x",), methods=())
    assert options.DrawOptions().shots == str(request.shots[0])
    assert options.DrawOptions().seeds == ",".join(map(str, request.seeds))
    assert options.SubsetOptions().subset == request.subset
    assert model_options.ModelOptions().precision == request.precision
    plain, offered = Execution(), model_options.ModelOptions()
    for field in dataclasses.fields(Execution):
        assert getattr(offered, field.name) == getattr(plain, field.name)


@pytest.mark.parametrize("name", [*RUNNING, "eval", "sensitivity"])
def test_help_has_text_for_every_option(name: str) -> None:
    result = RUNNER.invoke(app, [name, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 0
    for parameter in parameters(name):
        assert f"--{parameter.rstrip('_').replace('_', '-')}" in result.output


@pytest.mark.parametrize("name", [*RUNNING, "eval", "sensitivity"])
def test_help_has_examples(name: str) -> None:
    assert f"clipfit {name} " in RUNNER.invoke(app, [name, "--help"]).output


def test_version() -> None:
    from clipfit_cli import __version__

    assert RUNNER.invoke(app, ["--version"]).output == f"clipfit {__version__}\n"


def _caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (ConfigError("wrong"), 2),
        (ClipfitError("odd"), 1),
        (KeyboardInterrupt(), 130),
        (Terminated(15), 143),
        (_caused(RuntimeError("calling __set_name__"), Terminated(15)), 143),
        (_caused(SystemError("returned a result with an exception set"), _caused(ValueError(), Terminated(2))), 130),
        (PermissionError(13, "Permission denied", "/secret"), 3),
        (OSError(28, "No space left on device"), 3),
        (ConnectionRefusedError(111, "Connection refused"), 3),
    ],
)
def test_errors_become_exit_codes(raised: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    @reported()
    def failing() -> None:
        raise raised

    with pytest.raises(typer.Exit) as caught:
        failing()
    assert caught.value.exit_code == code
    out, err = capsys.readouterr()
    assert out == "" and err.strip()
    assert "; " in err or str(raised) in err


@pytest.mark.parametrize(
    "bug", [ZeroDivisionError(), RuntimeError(), OSError("of a library"), OSError(9, "Bad file descriptor")]
)
def test_bugs_keep_their_traceback(bug: Exception) -> None:
    @reported()
    def failing() -> None:
        raise bug

    with pytest.raises(type(bug)):
        failing()


def test_what_is_nested_too_deeply_is_told_from_a_function_that_never_ends(capsys: pytest.CaptureFixture[str]) -> None:
    @reported()
    def reading() -> None:
        json.loads("[" * 100_000)

    @reported()
    def endless() -> None:
        def again() -> None:
            again()

        again()

    with pytest.raises(typer.Exit) as caught:
        reading()
    assert caught.value.exit_code == 3 and "nested too deeply" in capsys.readouterr().err
    with pytest.raises(RecursionError):
        endless()


def test_debugging_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    @reported()
    def failing() -> None:
        raise ConfigError("wrong")

    monkeypatch.setenv("CLIPFIT_DEBUG", "1")
    with pytest.raises(ConfigError):
        failing()


@pytest.mark.parametrize("option", ["--method", "--subset", "--dataset", "--seeds", "--shots", "--set"])
def test_a_message_stays_short_however_long_the_word(option: str) -> None:
    result = RUNNER.invoke(app, ["train", "--dry-run", "--dataset", "dtd", option, "9" * 5000])
    assert result.exit_code in (2, 3) and len(result.stderr) < 600
