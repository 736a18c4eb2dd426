"""Which row of a comparison is held against which, and the cells and captions that say what came of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

from clipfit_cli.errors import counted
from clipfit_cli.protocols.leads import Lead, lead_of
from clipfit_cli.protocols.series import ROW, Entry, seeds_cell
from clipfit_cli.reports import statistics
from clipfit_cli.reports.statistics import MOST_SEEDS
from clipfit_cli.reports.tables import Column, Row, interval_text
from clipfit_cli.results.compare import paired_difference
from clipfit_cli.results.predictions import ReadPredictions

SHOWN_COLUMNS = (
    Column("lead_seeds", "lead of seeds", "value", terminal=False),
    Column("verdict", "verdict", "prose"),
    Column("seeds_needed", "needs seeds", "value", narrow=False),
)
"""Behind a lead and its interval."""

FURTHER_COLUMNS = (
    Column("lead_over", "over", terminal=False),
    Column("lead_wins", "wins", terminal=False),
    Column("lead_shots", "at shots", "value", terminal=False),
    Column("lead_ci95_low_pct", "", "diff", terminal=False),
    Column("lead_ci95_high_pct", "", "diff", terminal=False),
    Column("lead_p", "p", "number", terminal=False),
    Column("lead_method", "how", terminal=False),
    Column("lead_new_datasets_p", "", "number", terminal=False),
    Column("lead_wilcoxon_p", "", "number", terminal=False),
    Column("lead_mcnemar_p", "", "value", terminal=False),
    Column("lead_images_p", "", "number", terminal=False),
)
"""For programs."""

_INTERVAL = Column("lead_ci95", "95% interval", "value", csv=False)


@dataclass(frozen=True)
class _Comparison:
    """The row that leads, and the one that it is held against."""

    ours: Entry
    theirs: Entry
    lead: Lead

    @property
    def has_seeds(self) -> bool:
        """Whether something is trained in one of the rows."""
        return not self.ours.shots == self.theirs.shots == 0

    @property
    def family(self) -> tuple[object, ...]:
        """Comparisons of one family are corrected for one another; a family has each rival once."""
        shots = self.theirs.shots if self.ours.shots == 0 else self.ours.shots
        return self.ours.place, self.ours.label, shots


def lead_columns(metrics: Sequence[str]) -> tuple[list[Column], list[Column]]:
    """Return the columns that people see, and those for programs.

    Args:
        metrics: Of the protocol; people see the lead in the last.
    """
    last = metrics[-1]
    leads = [Column(f"lead_{metric}_pct", "", "diff", terminal=False) for metric in metrics[:-1]]
    spreads = [Column(f"lead_{metric}_std_pct", "", "pct", terminal=False) for metric in metrics]
    shown = [Column(f"lead_{last}_pct", "lead", "diff"), _INTERVAL, *SHOWN_COLUMNS]
    return shown, [*leads, *spreads, *FURTHER_COLUMNS]


def with_leads(
    entries: Sequence[Entry], metrics: Sequence[str], leaders: Set[str], predictions: ReadPredictions | None
) -> tuple[list[Entry], str, list[str]]:
    """Return the entries with the cells of their leads, how large a family is, and what else a reader should know.

    Args:
        entries: Of the protocol.
        metrics: Of the protocol.
        leaders: Labels of the method whose leads they are.
        predictions: For tests over images; None = without.
    """
    found = [_comparison(entry, entries, leaders, predictions) for entry in entries]
    families: dict[tuple[object, ...], dict[str, Lead]] = {}
    for known in filter(None, found):
        families.setdefault(known.family, {})[known.theirs.label] = known.lead
    families = {family: _together(rivals) for family, rivals in families.items()}
    corrected = {family: _corrected(rivals) for family, rivals in families.items()}
    led = []
    for entry, one in zip(entries, found, strict=True):
        cells: Row = {}
        if one:
            lead = families[one.family][one.theirs.label]
            cells = _cells(replace(one, lead=lead), metrics, corrected[one.family])
        led.append(replace(entry, row={**entry.row, **cells}))
    tested = [[lead for lead in rivals.values() if lead.spread] for rivals in families.values()]
    return led, _sizes(list(filter(None, tested))), _notes([lead for rivals in tested for lead in rivals])


def _comparison(
    entry: Entry, entries: Sequence[Entry], leaders: Set[str], predictions: ReadPredictions | None
) -> _Comparison | None:
    """Return what an entry is compared with; a leader with what trains nothing at its place."""
    if entry.label in leaders:
        place = entry.place[:-1] if entry.row.get(ROW) == "seed" else entry.place
        untrained = [one for one in entries if one.place == place and one.shots == 0 and one.label not in leaders]
        pair = (entry, untrained[0]) if untrained and entry.shots != 0 else None
    else:
        rivals = [
            one
            for one in entries
            if one.label in leaders
            and one.place == entry.place
            and (0 in (entry.shots, one.shots) or one.shots == entry.shots)
        ]
        most = max(rivals, key=lambda one: math.inf if one.shots is None else one.shots, default=None)
        pair = (most, entry) if most and len({one.label for one in rivals}) == 1 else None
    return _Comparison(*pair, lead_of(*pair, predictions)) if pair else None


def _together(rivals: Mapping[str, Lead]) -> dict[str, Lead]:
    """Return the leads with a seed effect on all data sets seen to where the rivals together show one."""
    several = [lead.differences for lead in rivals.values() if len(lead.differences) > 1]
    if statistics.shared_seed_p(several) >= statistics.SHARED_SEED_LEVEL:
        return dict(rivals)
    return {
        label: replace(lead, spread=statistics.mean_difference(lead.differences, alike=True)) if lead.spread else lead
        for label, lead in rivals.items()
    }


def _corrected(rivals: Mapping[str, Lead]) -> dict[str, Row]:
    """Return the cells of each rival that hang on all of them: p after Holm's correction, and what follows from it."""
    new = {label: statistics.new_datasets_p(one.by_dataset) for label, one in rivals.items() if len(one.by_dataset) > 1}
    verdicts = dict(zip(rivals, statistics.verdicts([one.estimate for one in rivals.values()]), strict=True))
    num_tested = sum(one.spread is not None for one in rivals.values())
    of_t, of_wilcoxon = (_holm({label: found[place] for label, found in new.items()}) for place in (0, 1))
    cells: dict[str, Row] = {}
    for label, one in rivals.items():
        verdict = verdicts[label]
        row: dict[str, object] = {
            "lead_p": verdict.p,
            "lead_new_datasets_p": of_t.get(label),
            "lead_wilcoxon_p": of_wilcoxon.get(label),
        }
        if one.spread is not None and one.score is not None:
            row["verdict"] = str(verdict)
            if str(verdict) not in (statistics.AHEAD, statistics.BEHIND):
                seeds = statistics.seeds_needed(one.spread, rivals=num_tested)
                row["seeds_needed"] = f">{MOST_SEEDS}" if seeds is not None and seeds > MOST_SEEDS else seeds
        if verdict.low is not None and verdict.high is not None:
            row |= {
                "lead_ci95_low_pct": verdict.low,
                "lead_ci95_high_pct": verdict.high,
                "lead_ci95": interval_text(verdict.low, verdict.high),
            }
        cells[label] = row
    return cells


def _holm(values: Mapping[str, float | None]) -> dict[str, float]:
    known = {label: p for label, p in values.items() if p is not None}
    return dict(zip(known, statistics.holm(list(known.values())), strict=True))


def _cells(one: _Comparison, metrics: Sequence[str], corrected: Mapping[str, Row]) -> dict[str, object]:
    """Return the cells of a lead."""
    lead = one.lead
    cells: dict[str, object] = {
        "lead_over": one.theirs.label,
        "lead_shots": "all" if one.ours.shots is None else one.ours.shots,
        "lead_seeds": seeds_cell([list(of_seed) for of_seed in lead.differences]) if one.has_seeds else None,
        "lead_method": lead.method,
        "lead_mcnemar_p": lead.mcnemar_p or None,
        "lead_images_p": lead.images_p,
        **corrected[one.theirs.label],
    }
    values = (*lead.parts, lead.score) if len(metrics) > 1 else lead.parts
    cells |= {f"lead_{metric}_pct": value for metric, value in zip(metrics, values, strict=False) if value is not None}
    for metric in metrics if lead.parts else ():
        if (ours := one.ours.seed_values.get(metric)) and (theirs := one.theirs.seed_values.get(metric)):
            paired = paired_difference(ours, theirs)
            cells[f"lead_{metric}_std_pct"] = paired.std if paired.n > 1 else None
            cells["lead_wins"] = f"{paired.wins}/{paired.n}"
    return cells


def _sizes(families: Sequence[Sequence[Lead]]) -> str:
    """Return how many rivals and seeds families have, the least and the most; empty where there is no family."""
    rivals = [len(family) for family in families]
    seeds = [lead.spread.num_seeds for family in families for lead in family if lead.spread]
    parts = [
        (f"{min(numbers)} to " if min(numbers) < max(numbers) else "") + counted(max(numbers), noun)
        for numbers, noun in ((rivals, "rival"), (seeds, "seed"))
        if numbers
    ]
    return ", ".join(parts)


def _notes(leads: Sequence[Lead]) -> list[str]:
    """Return what holds of some of the leads, a sentence or two each."""
    notes = []
    if any(lead.images and lead.estimate is lead.images for lead in leads):
        notes.append(
            "Where there is no spread over seeds, interval and p are of the sampling of test images: other training "
            "images, another seed, are not covered."
        )
    lacking = list(dict.fromkeys(lead.lacking for lead in leads if lead.lacking))
    if lacking:
        notes.append("No tests over images: " + lacking[0].rstrip(".") + ".")
    return notes
