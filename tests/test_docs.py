"""README and program cannot part."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from clipfit_cli import methods
from clipfit_cli.cli.app import app
from clipfit_cli.data import catalog
from clipfit_cli.errors import ClipfitError
from tests.conftest import SmallWorld, write_small_dataset

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.S)
COMMANDS = [
    *(command.name or command.callback.__name__ for command in app.registered_commands if command.callback),
    "models",
    "models show",
    "data list",
    "data show",
    "data get",
    "data check",
    "data path",
    "data cache",
]
DRY = ("train", "eval", "base2new", "xdataset", "compare")
LINES = [
    line.strip()
    for kind, text in BLOCKS
    if kind == "bash"
    for line in text.replace("\\\n", " ").splitlines()
    if line.strip().startswith("clipfit ")
]


def plain(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example(command: str) -> None:
    assert any(line.startswith(f"clipfit {command}") for line in LINES)


@pytest.mark.parametrize("method", methods.available())
def test_every_method_stands_in_the_readme(method: str) -> None:
    assert f"| `{method}` |" in README


@pytest.mark.parametrize("dataset", catalog.ALL)
def test_every_data_set_stands_in_the_readme(dataset: str) -> None:
    row = catalog.row(dataset)
    assert f"`{dataset}`" in README
    if row.split_file:
        assert f"`{row.split_file}`" in README


def test_every_exit_code_stands_in_the_readme() -> None:
    def children(kind: type[ClipfitError]) -> set[int]:
        return {kind.exit_code}.union(*(children(child) for child in kind.__subclasses__()))

    for code in children(ClipfitError) | {0, 130}:
        assert f"| {code} |" in README


def test_help_blocks_are_the_real_help() -> None:
    blocks = [text for kind, text in BLOCKS if kind == "text" and text.startswith("$ clipfit") and "--help" in text]
    assert blocks
    for block in blocks:
        head, _, shown = block.partition("\n")
        arguments = shlex.split(head.removeprefix("$ clipfit "))
        result = CliRunner().invoke(app, arguments, prog_name="clipfit", env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
        assert plain(result.output) == plain(shown)


@pytest.mark.parametrize("line", LINES)
def test_shell_lines_run(line: str, small_world: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line of the README parses and plans; what needs files gets small ones."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPFIT_DATA", str(small_world.data_root))
    write_small_dataset(small_world.data_root, "caltech101", ["face", "leopard", "ant"], (3, 1, 1))
    command = line.split("|")[0].split(" 2>")[0].replace("$PWD", str(tmp_path))
    arguments = shlex.split(command)[1:]
    if "--adapter" in arguments:
        arguments[arguments.index("--adapter") + 1] = _adapter(small_world)
    if arguments[0] == "export":
        arguments[1] = _adapter(small_world)
    _own_images(tmp_path)
    if arguments[0] in DRY and not {"--help", "--dry-run"} & set(arguments):
        arguments.append("--dry-run")
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output


def _own_images(folder: Path) -> None:
    """Make what the lines about a user's own images name."""
    classes = ["cat", "dog", "fox", "owl", "red panda"]
    rows = ["path,class_name"]
    for number, name in enumerate(classes):
        (folder / "my-images" / name).mkdir(parents=True)
        for index in range(5):
            path = folder / "my-images" / name / f"{index}.png"
            Image.new("RGB", (40, 36), (40 * number, 20 * index, 99)).save(path)
            rows.append(f"{path.relative_to(folder)},{name}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    (folder / "names.txt").write_text("\n".join(f"a {name}" for name in classes) + "\n")
    (folder / "prompts.txt").write_text("a photo of {}.\na drawing of {}.\n")


def _adapter(world: SmallWorld) -> str:
    """Return the folder of an adapter, trained now."""
    quick = ["--shots", "1", "--seeds", "1", "--epochs", "1"]
    assert CliRunner().invoke(app, ["train", "--dataset", "dtd", *quick, *world.options()]).exit_code == 0
    return str(next(world.runs_dir.rglob("adapter_config.json")).parent)


def test_the_changelog_has_this_version() -> None:
    from clipfit_cli import __version__

    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## (\[?{re.escape(__version__)}\]?|Unreleased)", changelog, flags=re.M)
    assert "### Added" in changelog and "### Numbers moved" in changelog


def test_the_settings_of_textures_in_the_readme_are_the_presets() -> None:
    from clipfit_cli.protocols.presets import preset_of

    ((epochs, lr),) = re.findall(r"`textures` trains for (\d+) epochs at ([\d.]+)", README)
    preset = preset_of("textures")
    assert (int(epochs), float(lr)) == (preset.epochs, preset.lr)


def test_nothing_of_this_machine_is_in_the_package() -> None:
    for path in (*(ROOT / "clipfit_cli").rglob("*.py"), ROOT / "README.md", ROOT / "CHANGELOG.md"):
        assert not re.search(r"(?<![\w.])/(root|work|home)/", path.read_text(encoding="utf-8")), path
