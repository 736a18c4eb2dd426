"""The tests are the same whoever runs them: variables, folders and plug-ins of the user's reach none."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from clipfit_cli import methods
from tests.isolation import KEPT, ROOT

PROBE = """
from tests.isolation import isolate
isolate()
import subprocess, sys
code = '''
import json, os, clipfit_cli, platformdirs
from clipfit_cli import methods
folders = [platformdirs.user_cache_dir(), platformdirs.user_data_dir(), platformdirs.user_config_dir()]
print(json.dumps([dict(os.environ), methods.available(), folders, clipfit_cli.__file__]))
'''
exec(code)
sys.stdout.flush()
subprocess.run([sys.executable, "-c", code], check=True, cwd="/")
"""
OTHERS = ("FORCE_COLOR", "TERM", "TZ", "LC_ALL", "https_proxy", "SLURM_JOB_ID", "SBATCH_PARTITION", "XDG_DATA_HOME")


def test_nothing_of_the_user_reaches_the_tests_or_what_they_start(tmp_path: Path) -> None:
    table = (ROOT / "docs" / "results.md").read_text(encoding="utf-8").partition("## Environment variables")[2]
    documented = re.findall(r"[A-Z_]{4,}", "\n".join(re.findall(r"^\| (`.*?) \|", table, flags=re.M)))
    assert {"CLIPFIT_RUNS", "HF_HOME", "MALLOC_"} <= {*documented}
    names = {*documented, *OTHERS} - {"CUDA_VISIBLE_DEVICES"}  # which says where tests marked `gpu` run
    plug_in = tmp_path / "odd.methods-1.0.dist-info"
    plug_in.mkdir()
    (plug_in / "METADATA").write_text("Name: odd.methods\nVersion: 1.0\n", encoding="utf-8")
    (plug_in / "entry_points.txt").write_text("[clipfit.methods]\nclipfit = nowhere_at_all:METHOD\n", encoding="utf-8")
    path = os.pathsep.join((str(ROOT), str(tmp_path)))
    environment = {**os.environ, **dict.fromkeys((*names, *KEPT), "odd"), "PYTHONPATH": path}

    done = subprocess.run([sys.executable, "-c", PROBE], env=environment, check=True, capture_output=True, text=True)

    here, started = map(json.loads, done.stdout.splitlines())
    for variables, available, folders, package in (here, started):
        assert {name for name, value in variables.items() if value == "odd"} == {*KEPT}
        assert available == [*methods.available()] and Path(package) == ROOT / "clipfit_cli" / "__init__.py"
        assert all(Path(folder).parent.name.startswith("clipfit-tests-") for folder in folders)
    assert not Path(started[2][0]).parent.exists(), "the folder is removed"
