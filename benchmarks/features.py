"""Print what methods on frozen features cost: what is encoded, for whom, and what training and testing take then.

    python benchmarks/features.py --data-root ~/data --dataset caltech101 --json benchmarks/features.json

Every method trains twice in one process, on the base half of the classes: the first time it encodes what no method
before it did, the second time all its stored crops are there. With ``views=none`` each step draws fresh crops, and they
are encoded again. The peak of memory is that of the process during the first training.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import circumstances, print_records, write_json

from clipfit_cli import methods
from clipfit_cli.cli.words import parse_methods
from clipfit_cli.config import TINY_BACKBONE, TINY_PRETRAINED, Keep, ModelConfig, Request
from clipfit_cli.data.load import default_data_root
from clipfit_cli.engine.environment import resolve_device
from clipfit_cli.engine.precision import resolve_precision
from clipfit_cli.models.source import find_blueprint
from clipfit_cli.protocols import base2new
from clipfit_cli.results.store import RunStore
from clipfit_cli.runs.prepare import prepare
from clipfit_cli.runs.run import run
from clipfit_cli.runs.workspace import Workspace

METHODS = (*methods.expand("features"), "tip-adapter-f:views=none")
TUNED = ("linear-probe",)


class Silent:
    """Shows no progress."""

    def training(self, done: int, total: int, loss: float) -> None:
        """Say nothing."""

    def testing(self, dataset: str, subset: str, done: int, total: int) -> None:
        """Say nothing."""


def measure(name: str, workspace: Workspace, store: RunStore, options: argparse.Namespace) -> dict[str, Any]:
    """Train and test a method twice, and return what that took."""
    model = ModelConfig(options.backbone, options.pretrained)
    precision = resolve_precision("auto", workspace.device, find_blueprint(model.backbone, model.pretrained))
    choices = parse_methods([name])
    request = Request(
        datasets=(options.dataset,),
        methods=choices,
        shots=(options.shots,),
        seeds=(1,),
        model=model,
        tune=name in TUNED,
        precision=precision,
    )
    (config,) = base2new.plan(request)
    prepared = prepare(config, workspace, store)
    features = workspace.inputs(model, precision).features
    row: dict[str, Any] = {"method": f"{name} --tune" if name in TUNED else name}
    for turn in ("first", "again"):
        encoded, start = features.encoded_images, time.perf_counter()
        finished = run(prepared, workspace, keep=Keep(adapter=False, nothing_before=True), progress=Silent())
        row[f"{turn}_s"] = time.perf_counter() - start
        row[f"{turn}_encoded"] = features.encoded_images - encoded
        if turn == "first":
            row["peak_mib"] = max(one.peak_memory_mib or 0 for one in (finished.run, *finished.tests))
    row["accuracy_pct"] = finished.tests[0].accuracy_pct
    return row


def main() -> None:
    """Measure all methods."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=default_data_root())
    parser.add_argument("--dataset", default="caltech101")
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--backbone", default=TINY_BACKBONE)
    parser.add_argument("--pretrained", default=TINY_PRETRAINED)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    device = resolve_device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(data_root=options.data_root, device=device)
        rows = [measure(name, workspace, RunStore(Path(folder)), options) for name in options.methods]
    print_records(f"Methods on frozen features: {options.dataset}, base half, {options.shots} shots", rows)
    asked = {name: str(value) for name, value in vars(options).items() if name not in ("data_root", "json")}
    write_json(options.json, {**circumstances(), "options": asked, "rows": rows})


if __name__ == "__main__":
    main()
