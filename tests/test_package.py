"""What stands in the package itself for use from Python."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import clipfit_cli

ROOT = Path(__file__).parents[1]
PACKED = ("pyproject.toml", "README.md", "LICENSE", ".gitignore")


def test_load_adapter_is_the_one_of_predict() -> None:
    from clipfit_cli.adapters.predict import load_adapter

    assert clipfit_cli.load_adapter is load_adapter


def test_other_names_are_not_there() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'load_adaptor'"):
        clipfit_cli.load_adaptor  # noqa: B018


def test_the_package_alone_loads_nothing_heavy() -> None:
    code = (
        "import json, sys, clipfit_cli; print(json.dumps([n for n in ('torch', 'numpy', 'PIL') if n in sys.modules]))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(out) == []


@pytest.mark.slow
def test_a_wheel_holds_the_package_as_it_is_and_nothing_of_an_older_build(tmp_path: Path) -> None:
    project, wheels = tmp_path / "project", tmp_path / "wheels"
    shutil.copytree(ROOT / "clipfit_cli", project / "clipfit_cli", ignore=shutil.ignore_patterns("__pycache__"))
    for name in PACKED:
        shutil.copy(ROOT / name, project)
    for place in ("build/lib", "build/bdist.linux-x86_64/wheel", "dist"):
        ghost = project / place / "clipfit_cli" / "methods" / "ghost.py"
        ghost.parent.mkdir(parents=True)
        ghost.write_text("# a method that was removed\n")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check")

    subprocess.run([sys.executable, "-m", "pip", "wheel", str(project), *options, "-w", str(wheels)], check=True)

    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        meta = archive.read(next(name for name in archive.namelist() if name.endswith("METADATA"))).decode()
    files = (path for path in (project / "clipfit_cli").rglob("*") if path.is_file())
    assert packed == {path.relative_to(project).as_posix() for path in files}
    assert f"Version: {clipfit_cli.__version__}" in meta.splitlines()
