"""Imports go one way, between rooms and inside them; files stay small; light rooms stay light."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "clipfit_cli"
ROOMS = (
    {"errors", "process", "_version"},
    {"files"},
    {"config"},
    {"data", "models", "results"},
    {"methods"},
    {"reports"},
    {"engine", "protocols"},
    {"runs"},
    {"adapters"},
    {"cli"},
    {"testing"},
)
"""A room imports what stands above it; no room imports one beside it. `testing` is for tests, here and elsewhere."""
TESTED = ("config", "errors", "data", "models", "methods", "engine")
"""What `testing` needs: a method is tried out without runs, results or the command line."""
DATA = (
    {"dataset", "catalog", "disk", "shifts"},
    {"splits", "sources"},
    {"files"},
    {"lists", "builtin", "pixels"},
    {"load"},
    {"check"},
    {"fetch"},
)
"""The same within `data`; of `pixels` only outsiders make use."""
NO_TORCH = ("results", "protocols", "reports", "config", "errors")
HEAVY = {"torch", "torchvision", "open_clip", "pandas", "safetensors", "timm", "numpy"}
FILES = {
    ".".join(("clipfit_cli", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Return the modules that a file imports at run time, and the names it takes from each, dotted."""
    found: set[str] = set()
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module and node.level == 0, f"{path} has a relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        elif not (top_level_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            pending += ast.iter_child_nodes(node)
    return found


def wrong_ways(order: tuple[set[str], ...], prefix: str) -> list[str]:
    """Return the imports below a package that do not go from a later level of `order` to an earlier one."""
    level = {name: number for number, names in enumerate(order) for name in names}
    wrong = []
    for module, path in FILES.items():
        if not module.startswith(f"{prefix}.") or (own := module.split(".")[prefix.count(".") + 1]) == "__main__":
            continue
        for name in imports(path):
            parts = name.removeprefix(f"{prefix}.").split(".")
            below = name.startswith(f"{prefix}.") and parts[0] != own
            if below and level.get(parts[0], -1) >= level[own]:
                wrong.append(f"{module} -> {name}")
    return wrong


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Return a circle of the graph, or nothing."""
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return list(error.args[1])
    return []


def test_every_room_has_its_place() -> None:
    rooms = {name.split(".")[1] for name in FILES if name.count(".")} - {"__main__"}
    assert rooms == set().union(*ROOMS)
    assert {name.split(".")[2] for name in FILES if name.startswith("clipfit_cli.data.")} == set().union(*DATA)


def test_imports_go_one_way_between_rooms_and_inside_data() -> None:
    assert not wrong_ways(ROOMS, "clipfit_cli")
    assert not wrong_ways(DATA, "clipfit_cli.data")


def test_the_tests_of_the_contract_need_no_runs() -> None:
    testing = [name for name in FILES if name.startswith("clipfit_cli.testing")]
    assert testing
    own = {found for name in testing for found in imports(FILES[name]) if found.startswith("clipfit_cli.")}
    assert {found.split(".")[1] for found in own} == {*TESTED, "testing"}


def test_no_files_import_one_another_in_a_circle_and_none_the_root() -> None:
    found = {name: imports(path) for name, path in FILES.items()}
    graph = {name: (found[name] & FILES.keys()) - {name, "clipfit_cli"} for name in FILES}
    assert not circle(graph)
    plain = {name for name, wanted in found.items() if any(n.rpartition(".")[0] == "clipfit_cli" for n in wanted)}
    assert not [
        name
        for name in plain
        for wanted in found[name]
        if wanted.rpartition(".")[0] == "clipfit_cli" and wanted not in FILES
    ]


def test_only_methods_know_methods() -> None:
    names = {name for name in FILES if name.startswith("clipfit_cli.methods.")} - {"clipfit_cli.methods.base"}
    assert not [name for name in FILES if ".methods" not in name and imports(FILES[name]) & names]


def test_light_rooms_import_nothing_heavy() -> None:
    heavy: dict[str, set[str]] = {}
    for name, path in FILES.items():
        room = name.split(".")[1] if "." in name else ""
        if room in NO_TORCH:
            heavy[name] = {n.split(".")[0] for n in imports(path)} & {"torch", "open_clip", "torchvision"}
        elif room in ("cli", "process"):
            heavy[name] = {n.split(".")[0] for n in imports(path, top_level_only=True)} & HEAVY
    assert not {name: found for name, found in heavy.items() if found}


def test_files_stay_small_and_typer_alone_parses_the_command_line() -> None:
    assert not [name for name, path in FILES.items() if path.read_text(encoding="utf-8").count("\n") > 400]
    assert not [name for name, path in FILES.items() if "click" in {n.split(".")[0] for n in imports(path)}]


@pytest.mark.parametrize("graph", [{"a": {"b"}, "b": {"a"}}, {"a": {"b"}, "b": {"c"}, "c": {"a"}}])
def test_a_circle_is_seen(graph: dict[str, set[str]]) -> None:
    assert circle(graph)
