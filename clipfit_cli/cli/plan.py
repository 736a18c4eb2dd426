"""What ``--dry-run`` prints: every run of a plan, and what it will take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipfit_cli.config import RunConfig, TestSet
from clipfit_cli.errors import counted
from clipfit_cli.reports.tables import Column, Table

if TYPE_CHECKING:
    from clipfit_cli.runs.forecast import Forecast


def plan_table(configs: Sequence[RunConfig], keys: Sequence[str], found: Sequence[Forecast], problem: str) -> Table:
    """Return a row a run.

    Args:
        configs: The plan.
        keys: Of the runs; empty where they cannot be told.
        found: What the runs will take; as `keys`.
        problem: That it cannot be told, and why; empty where it can.
    """
    columns = (
        Column("protocol", "protocol", terminal=False),
        Column("dataset", "data set"),
        Column("subset", "subset", terminal=False),
        Column("method", "method"),
        Column("settings", "settings", "prose", csv=False),
        Column("settings_values", "settings", "value", terminal=False),
        Column("backbone", "backbone", terminal=False),
        Column("pretrained", "pretrained", terminal=False),
        Column("shots", "shots", "value"),
        Column("seed", "seed", "int"),
        Column("epochs", "epochs", "int"),
        Column("steps", "steps", "int", terminal=False),
        Column("batch_size", "batch size", "int", terminal=False),
        Column("lr", "lr", "number", terminal=False),
        Column("precision", "precision", terminal=False),
        Column("templates", "templates", "prose", terminal=False),
        Column("tests_told", "tests", "prose", csv=False),
        Column("tests", "tests", "value", terminal=False),
        Column("is_finished", "finished", terminal=False),
        Column("num_train_images", "training images", "int", terminal=False),
        Column("num_test_images", "test images", "int", terminal=False),
        Column("time_s", "time", "seconds", terminal=False),
        Column("disk_mib", "disk", "mib", terminal=False),
        Column("num_views", "stored crops", "int", terminal=False),
        Column("views_mib", "their features", "mib", terminal=False),
        Column("key", "key", terminal=False),
    )
    rows = []
    for place, config in enumerate(configs):
        making = [stage for stage in config.stages if stage.makes_steps]
        stage = making[0] if making else None
        row: dict[str, object] = {
            "protocol": config.protocol,
            "dataset": config.dataset,
            "subset": config.subset,
            "method": config.method,
            "settings": " ".join(f"{name}={value}" for name, value in config.settings.items()),
            "settings_values": dict(config.settings),
            "backbone": config.model.backbone,
            "pretrained": config.model.pretrained,
            "shots": "all" if config.shots is None else config.shots,
            "seed": config.seed,
            "epochs": stage.epochs if stage and stage.steps is None else None,
            "steps": sum(one.steps or 0 for one in making) or None,
            "batch_size": stage.batch_size if stage else None,
            "lr": stage.lr if stage else None,
            "precision": config.precision,
            "templates": " | ".join(config.templates) or None,
            "tests_told": ", ".join(_told(config.tests)),
            "tests": " ".join(map(_place, config.tests)),
        }
        if found:
            is_finished = "yes" if found[place].is_finished else "no"
            row |= {**vars(found[place]), "is_finished": is_finished, "key": keys[place]}
        rows.append(row)
    protocols = " and ".join(dict.fromkeys(config.protocol for config in configs))
    title = f"{protocols}: {counted(len(rows), 'run')}"
    return Table(title, columns, tuple(rows), (_total(found) if found else problem,))


def _place(test: TestSet) -> str:
    """Return a test in short."""
    alpha = "" if test.alpha is None else f"/alpha={test.alpha:g}"
    return f"{test.dataset}/{test.subset}{alpha}" + ("" if test.shift == TestSet.shift else f"/{test.shift}")


def _told(tests: Sequence[TestSet]) -> list[str]:
    """Return tests in short, those that are of one list of images together."""
    found = []
    for dataset, subset in dict.fromkeys((test.dataset, test.subset) for test in tests):
        here = [test for test in tests if (test.dataset, test.subset) == (dataset, subset)]
        shifts = sum(test.shift != TestSet.shift for test in here)
        alphas = len({test.alpha for test in here} - {None})
        told = [counted(number, word) for number, word in ((shifts, "shift"), (alphas, "alpha")) if number]
        found.append(" + ".join([f"{dataset}/{subset}", *told]))
    return found


def _total(found: Sequence[Forecast]) -> str:
    """Return what all runs together will take, in words."""
    left = [one for one in found if not one.is_finished]
    known = [one.time_s for one in left if one.time_s is not None]
    if len(known) == len(left):
        total = sum(known)
        units = ((3600, "h"), (60, "min"), (1, "s"))
        hours = next((f"about {total / size:.1f} {unit}" for size, unit in units if total >= size), "less than 1 s")
    else:
        hours = f"time not known before a run of {'its' if len(left) == 1 else 'each'} kind is finished"
    views = max(left, key=lambda one: one.num_views, default=None)
    kept = (
        f"; features of {views.num_views:,} stored crops, {views.views_mib:,.0f} MiB"
        if views and views.num_views
        else ""
    )
    return (
        f"{len(found) - len(left)} finished, {len(left)} to do: "
        f"{counted(sum(one.num_train_images for one in left), 'image')} to train on, "
        f"{sum(one.num_test_images for one in left):,} to test; {hours}; "
        f"{sum(one.disk_mib for one in left):,.1f} MiB on the disk{kept}"
    )
