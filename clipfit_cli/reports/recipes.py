"""Published experiments as data: what is run, and which numbers it is compared with."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec

from clipfit_cli.config import ModelConfig
from clipfit_cli.data import catalog
from clipfit_cli.errors import ConfigError, ResultsError, first_line, shortened
from clipfit_cli.reports.published_number import Published, h_convention

FILE = Path(__file__).parent / "recipes.json"
_MODEL = ModelConfig()


class Number(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A number that was printed by this program; the fields are those of `Published`."""

    method: str
    dataset: str
    shots: int
    base_accuracy_pct: float | None = None
    new_accuracy_pct: float | None = None
    harmonic_mean_pct: float | None = None
    accuracy_pct: float | None = None


class Experiment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One experiment.

    Attributes:
        name: As a user types it.
        title: What it makes again, in a line.
        protocol: By its name.
        datasets: That are trained on; ``all`` = the eleven.
        methods: With settings, as they are typed.
        unpublished: Those among `methods` that no published number is of, though it may be of the method itself.
        targets: That a cross-data-set run is tested on beside its source.
        leader: The method whose leads the table of the runs has; empty = no leads.
        shots, seeds, val_shots: As of a request.
        backbone, pretrained: The model that the numbers are of.
        tolerance_pct: Points that the arithmetic of two machines or two programs may part means by.
        remark: What else is to be known, a sentence or more.
        source: Of `numbers`.
        numbers: Those that it is compared with where the program printed them itself, with `seeds`; empty = those that
            others have published of the same methods.
    """

    name: str
    title: str
    protocol: Literal["base2new", "few-shot", "xdataset"]
    datasets: tuple[str, ...]
    methods: tuple[str, ...]
    unpublished: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    leader: str = ""
    shots: tuple[int, ...] = (16,)
    seeds: tuple[int, ...] = (1, 2, 3)
    val_shots: int | None = None
    backbone: str = _MODEL.backbone
    pretrained: str = _MODEL.pretrained
    tolerance_pct: float = 0.1
    remark: str = ""
    source: str = ""
    numbers: tuple[Number, ...] = ()

    @property
    def trained_on(self) -> tuple[str, ...]:
        """The data sets that are trained on, by their names."""
        return catalog.FEW_SHOT_DATASETS if self.datasets == ("all",) else self.datasets

    def own_numbers(self) -> list[Published]:
        """Return `numbers` as they are shown beside measured ones."""
        rows = [
            Published(
                protocol=self.protocol,
                backbone=self.backbone,
                clipfit_method=one.method,
                source=self.source,
                source_name=self.source,
                **{name: getattr(one, name) for name in Number.__struct_fields__},
            )
            for one in self.numbers
        ]
        return [replace(row, h_convention=h_convention(row)) for row in rows]


@cache
def experiments(file: Path = FILE) -> dict[str, Experiment]:
    """Return all experiments by their names.

    Raises:
        ResultsError: The file cannot be read.
    """
    try:
        found = msgspec.json.decode(file.read_bytes(), type=list[Experiment])
    except (OSError, msgspec.MsgspecError) as error:
        raise ResultsError(
            f"the recipes in {file} cannot be read: {first_line(error)}; install clipfit again"
        ) from error
    return {one.name: one for one in found}


def experiment(name: str) -> Experiment:
    """Return the experiment of a name.

    Raises:
        ConfigError: There is none.
    """
    if name not in experiments():
        known = ", ".join(experiments())
        raise ConfigError(
            f"unknown experiment {shortened(name)!r}. Known: {known}; `clipfit reproduce` shows what each takes"
        )
    return experiments()[name]
