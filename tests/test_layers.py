"""Imports go one way: each room imports only what stands left of it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "clipfit_cli"
MAY_IMPORT = {
    "errors": set(),
    "config": {"errors"},
    "process": set(),
    "data": {"errors", "config"},
    "models": {"errors", "config"},
    "results": {"errors", "config"},
    "methods": {"errors", "config", "models"},
    "engine": {"errors", "config", "methods"},
    "protocols": {"errors", "config", "data", "models", "results", "methods", "engine"},
    "cli": {"errors", "config", "data", "models", "results", "methods", "engine", "protocols"},
}
HEAVY = {"torch", "torchvision", "open_clip", "pandas", "safetensors", "timm", "numpy", "tabulate"}
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse((PACKAGE / path).read_text(encoding="utf-8"))
    nodes = _outside_functions(tree) if top_level_only else ast.walk(tree)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _outside_functions(tree: ast.Module) -> list[ast.AST]:
    """Return what runs on import; blocks for the type checker do not."""
    found: list[ast.AST] = []
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        found.append(node)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        pending += ast.iter_child_nodes(node)
    return found


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_left(path: Path) -> None:
    room = room_of(path)
    if room in ("__init__", "__main__"):
        pytest.skip("assembles the package")
    rooms = {name.split(".")[1] for name in imports(path) if name.startswith("clipfit_cli.")}
    allowed = MAY_IMPORT[room] | {room, "__version__"}
    assert rooms <= allowed, f"{path} imports {sorted(rooms - allowed)}"


@pytest.mark.parametrize("path", [p for p in FILES if room_of(p) == "engine"], ids=str)
def test_engine_knows_no_named_method(path: Path) -> None:
    named = {name for name in imports(path) if name.startswith("clipfit_cli.methods.")}
    assert all(name.startswith("clipfit_cli.methods.base") for name in named)


@pytest.mark.parametrize("path", [p for p in FILES if room_of(p) in ("cli", "config", "errors", "process")], ids=str)
def test_the_command_line_imports_nothing_heavy_at_module_level(path: Path) -> None:
    heavy = {name.split(".")[0] for name in imports(path, top_level_only=True)} & HEAVY
    assert not heavy, f"{path} imports {sorted(heavy)} at module level"


@pytest.mark.parametrize("path", [p for p in FILES if room_of(p) == "results"], ids=str)
def test_results_know_no_torch(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & {"torch", "open_clip", "torchvision"}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_files_stay_small(path: Path) -> None:
    lines = (PACKAGE / path).read_text(encoding="utf-8").count("\n")
    assert 0 < lines <= 400


def test_typer_alone_parses_the_command_line() -> None:
    assert not [path for path in FILES if {"click"} & {name.split(".")[0] for name in imports(path)}]
