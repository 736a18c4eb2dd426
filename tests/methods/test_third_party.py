"""A method in a package of its own, built and installed: it is listed, runs, is recorded, and keeps the contract."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from clipfit_cli import methods
from clipfit_cli.errors import ConfigError, UnknownNameError

METHOD = """
from dataclasses import dataclass, replace

from clipfit_cli.config import Recipe
from clipfit_cli.methods import get

# CLIPFit's encoders under a name and a recipe of its own.
METHOD = replace(
    get("layer-norm"),
    name="louder-norm",
    summary="weight and bias of every LayerNorm, faster than usual",
    source="made for a test of packages that bring methods",
    recipe=lambda conditions, settings: (Recipe(epochs=2, lr=0.01, warmup_epochs=0),),
)
"""
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "louder-norm"
version = "1.2.3"

[project.entry-points."clipfit.methods"]
louder-norm = "louder_norm:METHOD"

[tool.hatch.build.targets.wheel]
include = ["louder_norm.py"]
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the package is installed in."""
    source, target = (tmp_path_factory.mktemp(name) for name in ("source", "target"))
    (source / "louder_norm.py").write_text(METHOD, encoding="utf-8")
    (source / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(target))
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True)
    return target


def run(installed: Path, *words: str, cwd: Path | None = None) -> str:
    path = os.pathsep.join((str(installed), os.environ["PYTHONPATH"]))
    environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "80", "CLIPFIT_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *words], env=environment, cwd=cwd, check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.slow
def test_it_appears_in_help_and_lists(installed: Path) -> None:
    assert "louder-norm" in run(installed, "-m", "clipfit_cli", "train", "--help")
    rows = {row["method"]: row for row in json.loads(run(installed, "-m", "clipfit_cli", "methods", "--json"))["rows"]}
    assert rows["louder-norm"]["origin"] == "louder-norm 1.2.3" and rows["clipfit"]["origin"] is None
    shown = run(installed, "-m", "clipfit_cli", "methods", "show", "louder-norm", "--json")
    assert {row["name"]: row["value"] for row in json.loads(shown)["rows"]}["lr"] == 0.01


@pytest.mark.slow
def test_it_runs_in_a_comparison_and_its_record_names_the_package(installed: Path, tmp_path: Path) -> None:
    words = ("compare", "--method", "louder-norm", "--seeds", "1", "--shots", "2", "--json")
    rows = json.loads(run(installed, "-m", "clipfit_cli", *words, cwd=tmp_path))["rows"]
    assert [row["method"] for row in rows] == ["zero-shot", "louder-norm"] and rows[1]["trainable_parameters"] > 0
    (record,) = tmp_path.glob("runs/textures/louder-norm/*/record.json")
    assert json.loads(record.read_text(encoding="utf-8"))["config"]["origin"] == "louder-norm 1.2.3"


@pytest.mark.slow
def test_it_passes_the_tests_of_the_contract(installed: Path) -> None:
    code = "from clipfit_cli import methods, testing; testing.check(methods.get('louder-norm')); print('passed')"
    assert run(installed, "-c", code) == "passed\n"


@pytest.mark.parametrize(
    ("point", "message"),
    [
        (("clipfit", "somewhere:METHOD"), "brings a method 'clipfit', which there is already"),
        (("all", "somewhere:METHOD"), "brings a method 'all', which there is already"),
        (("new", "nowhere_at_all:METHOD"), "the method new of nowhere_at_all:METHOD cannot be loaded: No module"),
        (("new", "json:dumps"), "json:dumps is no MethodInfo of that name"),
        (("new", "clipfit_cli.methods.bitfit:METHOD"), "is no MethodInfo of that name"),
    ],
)
def test_what_cannot_be_brought_is_refused(
    monkeypatch: pytest.MonkeyPatch, point: tuple[str, str], message: str
) -> None:
    name, value = point
    monkeypatch.setattr(methods, "entry_points", lambda group: [EntryPoint(name, value, group)])
    methods._brought.cache_clear()
    try:
        with pytest.raises(ConfigError, match=message):
            methods.get("new")
    finally:
        methods._brought.cache_clear()


def test_words_stand_for_methods() -> None:
    weights = methods.expand("weights")
    assert {"bitfit", "clipfit", "full", "layer-norm"} <= set(weights) and "zero-shot" not in weights
    assert set(methods.expand("all")) == set(methods.available())
    assert methods.expand("clipfit") == ("clipfit",)
    with pytest.raises(UnknownNameError):
        methods.expand("weight")
