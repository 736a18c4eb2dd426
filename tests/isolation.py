"""Tests see this checkout, and no variable, folder or plug-in of the user's; nor do the processes that they start."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from importlib.metadata import entry_points
from pathlib import Path

ROOT = Path(__file__).parents[1]
PREFIXES = (
    *("CLIPFIT_", "_CLIPFIT_", "HF_", "TRANSFORMERS_", "TORCH", "XDG_", "MPL", "MATPLOTLIB", "PIP_", "LC_"),
    *("OMP_", "GOMP_", "KMP_", "MKL_", "ATEN_", "DNNL_", "ONEDNN_", "CUBLAS_", "MALLOC_", "GLIBC_"),
    *("SLURM", "SBATCH_", "SQUEUE_", "SCANCEL_", "SCONTROL_", "SRUN_", "SALLOC_", "SUBMITIT_"),
)
NAMES = (
    *("COLUMNS", "LINES", "TERMINAL_WIDTH", "TERM", "NO_COLOR", "FORCE_COLOR", "PY_COLORS", "CLICOLOR_FORCE"),
    *("GITHUB_ACTIONS", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "PYTHONIOENCODING", "PYTHONWARNINGS"),
    *("LANGUAGE", "LANG", "TZ", "ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
)
KEPT = ("CLIPFIT_REAL_DATA", "MALLOC_PERTURB_")
"""Where tests marked `real_data` look, and what fills memory in `tests/chance.py`; the program reads neither."""


def isolate() -> None:
    """Take the user's environment from this process; to be called before anything is imported that reads it."""
    for name in tuple(os.environ):
        if (name.startswith(PREFIXES) or name.upper() in NAMES) and name not in KEPT:
            del os.environ[name]
    folder = Path(tempfile.mkdtemp(prefix="clipfit-tests-"))
    atexit.register(_remove, folder, os.getpid())
    hidden = folder / "hidden"
    _hide_plug_ins(hidden)
    sys.path.insert(0, str(hidden))
    os.environ |= {
        **{f"XDG_{kind}_HOME": str(folder / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")},
        **{"HF_HOME": str(folder / "hf"), "LANG": "C.UTF-8", "TZ": "UTC"},
        "MKL_CBWR": "COMPATIBLE",  # the newest processors round otherwise, by more than golden numbers allow
        "PYTHONPATH": os.pathsep.join(filter(None, (str(hidden), str(ROOT), os.environ.get("PYTHONPATH")))),
    }


def _hide_plug_ins(folder: Path) -> None:
    """Have no installed package bring methods: of two distributions of one name Python sees the first on its path."""
    distributions = {point.dist.name: point.dist for point in entry_points(group="clipfit.methods") if point.dist}
    for name, distribution in distributions.items():
        information = folder / f"{name.replace('-', '_')}-{distribution.version}.dist-info"
        information.mkdir(parents=True)
        (information / "METADATA").write_text(f"Name: {name}\nVersion: {distribution.version}\n", encoding="utf-8")


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # no process that was forked
        shutil.rmtree(folder, ignore_errors=True)
