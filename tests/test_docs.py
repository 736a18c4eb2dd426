"""Documentation and program cannot part: what is written is there, what is there is written, lines run."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from clipfit_cli import methods, protocols
from clipfit_cli.cli.app import app
from clipfit_cli.config import Conditions, Recipe, TrainingConfig
from clipfit_cli.data import catalog
from clipfit_cli.errors import ClipfitError
from clipfit_cli.reports import finished_tests
from clipfit_cli.reports.tables import Column
from clipfit_cli.results import record
from clipfit_cli.results.metrics import METRICS
from clipfit_cli.results.request import RunRequest
from tests.conftest import SmallWorld, write_small_dataset
from tests.update_docs import DOCUMENTS, HELP_BLOCK, ROOT, commands, help_block, renewed

TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in DOCUMENTS}
README, COMMANDS, RESULTS = TEXTS["README.md"], TEXTS["docs/commands.md"], TEXTS["docs/results.md"]
PROSE = {name: HELP_BLOCK.sub("", text) for name, text in TEXTS.items()}
BLOCKS = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.S | re.M)
WRITTEN = [
    line.strip()
    for text in TEXTS.values()
    for kind, block in BLOCKS.findall(text)
    if kind == "bash"
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip().startswith("clipfit ")
]
LINES = list(dict.fromkeys(WRITTEN))
MAKES_RUNS = ("train", "eval", "base2new", "xdataset", "compare")
READS_RUNS = ("runs", "results", "report", "inspect")
DOMAINS = ("photo", "art", "sketch")


def options() -> set[str]:
    """Return the long options of all commands."""
    return {
        name
        for command in commands().values()
        for option in command.params
        for name in (*option.opts, *option.secondary_opts)
        if name.startswith("--")
    } | {"--help"}


def anchors(text: str) -> set[str]:
    """Return what a link can name in a document: its headings, as GitHub writes them."""
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M)
    heads = re.findall(r"^#+ (.+)$", outside, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("command", [words for words in commands() if words])
def test_every_command_has_an_example(command: str) -> None:
    assert any(f"{line} ".startswith(f"clipfit {command} ") for line in WRITTEN)


def test_every_command_shows_its_help() -> None:
    assert sorted(block["words"] for block in HELP_BLOCK.finditer(COMMANDS)) == sorted(commands())


def test_every_command_stands_under_a_heading() -> None:
    """In the help of the program, and in the contents of the page that has them all."""
    assert "─ Commands ─" not in help_block("")
    contents = COMMANDS[: COMMANDS.index("```text")]
    heads = re.findall(r"^## (.+)$", PROSE["docs/commands.md"], flags=re.M)
    assert len(heads) > 20
    assert not {head for head in heads if f"](#{head.lower().replace(' ', '-')})" not in contents}


def test_help_blocks_are_the_real_help() -> None:
    """`make docs` writes them anew."""
    for name, text in TEXTS.items():
        for block in HELP_BLOCK.finditer(text):
            assert block[0] == help_block(block["words"]), f"{name}; `make docs` mends it"


def test_help_is_found_again_after_it_changed() -> None:
    old = "a\n\n```text\n$ clipfit data path --help\n\n Usage: nothing\n```\n\n```bash\nclipfit data path dtd\n```\n"
    assert renewed(old) == old.replace("\n Usage: nothing\n", help_block("data path").partition("--help\n")[2][:-4])


def test_every_option_that_is_named_exists() -> None:
    known = options()
    for name in ("README.md", *(name for name in TEXTS if name.startswith("docs/"))):
        lines = [line for line in PROSE[name].splitlines() if not line.startswith("python ")]
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", "\n".join(lines)))
        assert not named - known, name


def test_the_options_that_commands_share_are_those_that_are_written() -> None:
    """A list for all that make runs, and one for those of them that train."""
    of_all, of_training = COMMANDS.split("## What the commands share\n")[1].split("**Words.**")[0].split("Four of them")
    sets = [{name for option in commands()[words].params for name in option.opts} for words in MAKES_RUNS]
    shared = set.intersection(*sets) - {"-q", "--help"}
    training = set.intersection(*(names for names in sets if "--method" in names)) - shared - {"-q", "--help"}
    written = set(re.findall(r"`(--[a-z-]+)`", of_all))
    assert shared == written
    assert set(re.findall(r"`(--[a-z-]+)`", of_training.split(";")[0])) == training


def test_every_option_is_explained_or_shown() -> None:
    assert not {option for option in options() if f"{option} " not in COMMANDS}


@pytest.mark.parametrize("method", methods.available())
def test_every_method_and_setting_is_written(method: str) -> None:
    assert f"| `{method}` |" in README
    rows = COMMANDS[COMMANDS.index(f"\n| `{method}` |") + 1 :].split("\n\n")[0].splitlines()
    others = [number for number, row in enumerate(rows) if number and not row.startswith("| |")]
    own = "\n".join(rows[: min(others, default=len(rows))])
    for setting in dataclasses.fields(methods.get(method).settings):
        assert f"| `{setting.name}` |" in own, setting.name


@pytest.mark.parametrize("dataset", catalog.ALL)
def test_every_data_set_is_written(dataset: str) -> None:
    row, text = catalog.row(dataset), TEXTS["docs/data.md"]
    assert f"`{dataset}`" in text
    if row.split_file:
        assert f"| `{dataset}` | `{row.folder}` | `{row.split_file}` |" in text


def test_every_exit_code_is_written() -> None:
    def children(kind: type[ClipfitError]) -> set[int]:
        return {kind.exit_code}.union(*(children(child) for child in kind.__subclasses__()))

    table = RESULTS[RESULTS.index("## Exit codes") : RESULTS.index("## Environment variables")]
    written = {int(code) for code in re.findall(r"^\| (\d+) \|", table, flags=re.M)}
    assert written == children(ClipfitError) | {0, 130, 141, 143}


def test_every_variable_is_written() -> None:
    table = RESULTS[RESULTS.index("## Environment variables") :]
    for path in (ROOT / "clipfit_cli").rglob("*.py"):
        for name in re.findall(r"\"((?:CLIPFIT|HF|OMP|GOMP)_[A-Z_]+)\"", path.read_text(encoding="utf-8")):
            assert f"`{name}`" in table, name


def test_every_column_of_a_result_is_written() -> None:
    columns = {
        column.key
        for module in pkgutil.iter_modules(protocols.__path__)
        for value in vars(importlib.import_module(f"{protocols.__name__}.{module.name}")).values()
        if isinstance(value, tuple)
        for column in value
        if isinstance(column, Column)
    }
    assert {"harmonic_mean_pct", "role", "macro_f1_pct", "train_time_s"} <= columns
    table = RESULTS[RESULTS.index("## CSV and JSON") : RESULTS.index("## Exit codes")]
    assert not {key for key in columns if f"`{key}`" not in table and not key.endswith("_std_pct")}


def test_every_metric_and_every_column_of_tests_is_written() -> None:
    columns = (value for value in vars(finished_tests).values() if isinstance(value, tuple))
    keys = {column.key for found in columns for column in found if isinstance(column, Column)}
    table = RESULTS[RESULTS.index("## CSV and JSON") : RESULTS.index("## Exit codes")]
    assert not {key for key in keys | {one.key for one in METRICS.values()} if f"`{key}`" not in table}
    assert not {name for name in METRICS if f"`{name}`" not in RESULTS}


def test_every_field_of_a_record_is_written() -> None:
    kinds = [kind for kind in vars(record).values() if dataclasses.is_dataclass(kind)]
    names = [{field.name for field in dataclasses.fields(kind)} for kind in kinds]
    names = [found for found in names if "key" in found]
    assert names
    assert not {name for name in set().union(*names) if f"`{name}" not in RESULTS}


def test_every_extra_and_every_target_of_make_exists() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = re.findall(r"^(\w+) = \[", project.split("[project.optional-dependencies]")[1].split("\n[")[0], flags=re.M)
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M)
    for name, text in TEXTS.items():
        assert set(re.findall(r"'\.\[(\w+)\]'", text)) <= set(extras), name
        named = {f"make {target}" for target in re.findall(r"`make (\w+)`", text)}
        assert named <= {f"make {target}" for target in targets}, name


@pytest.mark.parametrize("name", TEXTS)
def test_every_link_leads_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```$", "", TEXTS[name], flags=re.S | re.M))
    for link in links:
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


def test_every_script_that_is_named_exists() -> None:
    for name, text in TEXTS.items():
        for script in re.findall(r"benchmarks/\w+\.py", text):
            assert (ROOT / script).exists(), f"{name}: {script}"


def test_the_readme_is_short_and_leads_to_everything() -> None:
    assert len(README.splitlines()) <= 175
    for name in set(TEXTS) - {"README.md"}:
        assert f"]({name})" in README, name


@pytest.mark.parametrize("name", [*TEXTS, "CHANGELOG.md"])
def test_no_sentence_is_told_twice_on_a_page(name: str) -> None:
    prose = re.sub(r"^(```.*?^```|\|.*?)$", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.S | re.M)
    paragraphs = [" ".join(one.split()) for one in re.split(r"\n\s*\n|\n(?=\s*[*-] )", prose)]
    sentences = [one for paragraph in paragraphs for one in re.split(r"(?<=[.:;]) ", paragraph) if len(one) > 40]
    assert not {one for one in sentences if sentences.count(one) > 1}


@pytest.mark.parametrize("name", TEXTS)
def test_tables_are_whole(name: str) -> None:
    """Rows behind an empty line are text, a cell too many is lost, and of two rows for one thing a reader sees one."""
    outside = re.sub(r"^```.*?^```$", "", TEXTS[name], flags=re.S | re.M)
    for table in re.findall(r"(?:^\|.*\n)+", outside, flags=re.M):
        head, rule, *rows = table.splitlines()
        assert re.fullmatch(r"\|(---\|)+", rule), f"no table: {head}"
        told = [re.split(r"(?<!\\)\|", row)[1:-1] for row in rows]
        assert {len(cells) for cells in told} == {rule.count("---")}, head
        named = ["|".join(cells[:-1]) for cells in told if cells[0].strip()]
        assert not [name for name in named if named.count(name) > 1]


def test_what_ci_runs_is_the_line_of_the_readme_and_the_rest() -> None:
    """Each test once: a line of the script that is the README's runs all but the slow ones, another those."""
    _, line = re.findall(r"^python -m pip install .*$", README, flags=re.M)
    script = [one.strip() for one in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()]
    assert line.startswith("python -m pip install -e '.[dev]' && python -m pytest ")
    assert line.endswith(' -m "not slow"') and script.count(line) == 1
    assert "part lint make lint" in script and script[-1] == 'part "slow tests" make slow'
    assert "pytest" not in "".join(script).replace(line, "")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "\nslow:\n\t$(PYTEST) -m slow\n" in makefile and "\ncheck: lint\n\t$(PYTEST)\n" in makefile


def test_every_block_has_a_kind() -> None:
    """A line that should run and stands in a block without one would never run."""
    for name, text in TEXTS.items():
        fences = re.findall(r"^```(.*)$", text, flags=re.M)
        assert set(fences[0::2]) <= {"bash", "sh", "text", "python"}, name
        assert set(fences[1::2]) <= {""}, name


def test_code_is_python() -> None:
    found = [block for text in TEXTS.values() for kind, block in BLOCKS.findall(text) if kind == "python"]
    assert found
    for block in found:
        compile(block, "documentation", "exec")


@pytest.mark.slow  # each is a run of its own; the long check has them
@pytest.mark.parametrize("line", LINES)
def test_shell_lines_run(line: str, small_world: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line parses and plans; what needs files gets small ones."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPFIT_DATA", str(small_world.data_root))
    monkeypatch.setenv("CLIPFIT_OFFLINE", "1")
    write_small_dataset(small_world.data_root, "caltech101", ["face", "leopard", "ant"], (3, 1, 1))
    arguments = shlex.split(re.split(r"\||2?>", line)[0])[1:]
    if arguments[0] in READS_RUNS or any(word.startswith(("dataset=", "method=")) for word in arguments):
        monkeypatch.setenv("CLIPFIT_RUNS", str(small_world.runs_dir))
        _adapter(small_world, seeds="1,2")
    for position, word in enumerate(arguments):
        if word.startswith("runs/"):
            arguments[position] = _adapter(small_world)
        arguments[position] = arguments[position].replace("dataset=textures", "dataset=dtd")
    _own_images(tmp_path, line)
    if "plan.json" in arguments:
        planned = ["train", "--dataset", "dtd", "--shots", "1", "--seeds", "1", "--epochs", "1", *small_world.options()]
        Path("plan.json").write_text(CliRunner().invoke(app, [*planned, "--dry-run", "--json"]).stdout)
    if "my-model" in arguments and arguments[0] != "export":
        assert CliRunner().invoke(app, ["export", _adapter(small_world), "--out", "my-model"]).exit_code == 0
    if arguments[0] in (*MAKES_RUNS, "robustness") and not {"--help", "--dry-run"} & set(arguments):
        arguments.append("--dry-run")
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output


def _own_images(folder: Path, line: str) -> None:
    """Make what a line about a user's own images names."""
    classes = ["cat", "dog", "fox", "owl", "red panda"]
    parents = ("my-images", *(f"pacs/{domain}" for domain in DOMAINS if f"pacs/{domain}" in line))
    rows = ["path,class_name"]
    for number, name in enumerate(classes):
        for parent in parents:
            (folder / parent / name).mkdir(parents=True)
            for index in range(5):
                path = folder / parent / name / f"{index}.png"
                Image.new("RGB", (40, 36), (40 * number, 20 * index, 99)).save(path)
        rows += [f"my-images/{name}/{index}.png,{name}" for index in range(5)]
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    (folder / "names.txt").write_text("\n".join(f"a {name}" for name in classes) + "\n")
    (folder / "prompts.txt").write_text("a photo of {}.\na drawing of {}.\n")


def _adapter(world: SmallWorld, seeds: str = "1") -> str:
    """Return the folder of an adapter, trained now."""
    quick = ["--shots", "1", "--seeds", seeds, "--epochs", "1"]
    assert CliRunner().invoke(app, ["train", "--dataset", "dtd", *quick, *world.options()]).exit_code == 0
    return str(next(world.runs_dir.rglob("adapter_config.json")).parent)


def test_the_rooms_that_are_written_are_those_that_there_are() -> None:
    tree = TEXTS["CONTRIBUTING.md"].split("clipfit_cli/\n")[1].split("```")[0]
    names = {
        name for line in tree.splitlines() for name in re.findall(r"[a-z]+(?:\.py|/)", line[:26]) if line[2] != " "
    }
    package = ROOT / "clipfit_cli"
    assert {path.name for path in package.iterdir() if (path / "__init__.py").exists()} == {
        name[:-1] for name in names if name.endswith("/")
    }
    assert not {name for name in names if not (package / name).exists()}


def test_the_changelog_has_this_version() -> None:
    from clipfit_cli import __version__

    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## (\[?{re.escape(__version__)}\]?|Unreleased)", changelog, flags=re.M)
    assert "### Added" in changelog and "### Numbers moved" in changelog


@pytest.mark.parametrize(
    ("section", "kind", "above"),
    [
        ("In trainings and tests", record._Record, None),
        ("In trainings", record.Run, record._Record),
        ("In tests", record.Test, record._Record),
        ("In `config`", TrainingConfig, None),
        ("In each of `stages`", Recipe, None),
        ("In requests", RunRequest, None),
    ],
)
def test_every_field_of_a_record_is_documented(section: str, kind: Any, above: Any) -> None:
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", TEXTS["docs/records.md"], flags=re.M | re.S)
    documented = re.findall(r"^\| `(\w+)` \|(?:[^|]+\|){2} \d+\.\d+\.\d+ \|$", text, flags=re.M)
    shared = {field.name for field in dataclasses.fields(above)} if above else set()
    assert sorted(documented) == sorted({field.name for field in dataclasses.fields(kind)} - shared)


def test_the_settings_of_textures_that_are_written_are_the_presets() -> None:
    info = methods.get("clipfit")
    text = " ".join(TEXTS["docs/protocol.md"].split())
    ((epochs, lr),) = re.findall(r"`textures` trains for (\d+) epochs at ([\d.]+)", text)
    (preset,) = info.recipe(Conditions(dataset="textures"), info.settings())
    assert (int(epochs), float(lr)) == (preset.epochs, preset.lr)


def test_nothing_of_this_machine_is_written() -> None:
    for path in (*(ROOT / "clipfit_cli").rglob("*.py"), *DOCUMENTS, ROOT / "CHANGELOG.md", ROOT / "benchmarks/LOG.md"):
        assert not re.search(r"(?<![\w.])/(root|work|home|tmp)/", path.read_text(encoding="utf-8")), path
