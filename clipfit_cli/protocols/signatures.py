"""Signs that runs went wrong, as a table shows them: codes for programs, a line a sign for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from clipfit_cli.config import TestSet
from clipfit_cli.results.record import Finished, Test
from clipfit_cli.results.signatures import (
    MEANINGS,
    Code,
    beside_zero_shot,
    codes_in,
    is_as_it_is,
    is_of_trained,
    zero_shot_of,
)
from clipfit_cli.results.summary import mean

_NAMED = 6
"""So many runs are named in a line for people; programs have all."""


class Sign(NamedTuple):
    """What runs of one method that differ in their seeds show on a test set.

    Attributes:
        code: What.
        points: Mean accuracy minus zero-shot's; None where the sign is not about that.
        seeds: Whose runs show it; none where all do, or their mean.
    """

    code: Code
    points: float | None = None
    seeds: tuple[int, ...] = ()


def signs_of(records: Sequence[Finished], tests: Iterable[TestSet], among: Iterable[Finished]) -> list[Sign]:
    """Return the signs that the runs of one method show, in the order in which they are told.

    Beside zero-shot the mean over the seeds counts; else each run does. Who gains over zero-shot on what was trained on
    has learnt something, whatever the loss says.

    Args:
        records: The same but for the seed, at least one.
        tests: Where.
        among: What else is in the table; zero-shot's runs are looked for here, and in what is finished beside.
    """
    asked = set(tests)
    as_it_is = [one for one in among if is_as_it_is(one.run) and _model(one) == _model(records[0])]
    zero_shot = [*(test for one in as_it_is for test in one.tests), *records[0].zero_shot]
    found: list[Sign] = []
    alone: dict[Code, set[int]] = {}
    for record in records:
        notes = [*record.run.notes, *(note for test in record.tests if _set_of(test) in asked for note in test.notes)]
        for code in codes_in(notes):
            alone.setdefault(code, set()).add(record.config.seed)
    if "learnt_nothing" in alone and _gains(records, zero_shot):
        del alone["learnt_nothing"]
    for code, seeds in alone.items():
        found.append(Sign(code, seeds=() if len(seeds) == len(records) else tuple(sorted(seeds))))
    for asked_of in sorted(asked, key=lambda test: (test.dataset, test.subset, test.shift)):
        made = [test for record in records for test in record.tests if _set_of(test) == asked_of]
        other = zero_shot_of(made[0], zero_shot) if made else None
        if other:
            accuracy = mean([test.accuracy_pct for test in made])
            if code_beside := beside_zero_shot(records[0].run, made[0], accuracy, other):
                found.append(Sign(code_beside, accuracy - other.accuracy_pct))
    order = list(MEANINGS)
    return sorted(found, key=lambda sign: order.index(sign.code))


def _gains(records: Sequence[Finished], zero_shot: Sequence[Test]) -> bool:
    """Whether the mean over the seeds is above zero-shot on what was trained on, asked for or not."""
    run = records[0].run
    made = [test for record in records for test in record.tests if test.is_plain and is_of_trained(record.run, test)]
    other = zero_shot_of(made[0], zero_shot) if made else None
    return other is not None and not beside_zero_shot(run, made[0], mean([test.accuracy_pct for test in made]), other)


def lines_of(found: Sequence[tuple[str, str, Sign]]) -> tuple[str, ...]:
    """Return one line a sign that occurs, with the methods that show it and what helps.

    Args:
        found: Method, with what tells it from others; what else it is about, may be empty; sign.
    """
    lines = []
    for code, (what, advice) in MEANINGS.items():
        shown = dict.fromkeys(_words(label, where, sign) for label, where, sign in found if sign.code == code)
        if shown:
            more = f" and {len(shown) - _NAMED} more" if len(shown) > _NAMED else ""
            lines.append(f"{what}: {', '.join(list(shown)[:_NAMED])}{more}; {advice}.")
    return tuple(lines)


def _words(label: str, where: str, sign: Sign) -> str:
    points = "" if sign.points is None else f" {sign.points:+.2f}"
    seeds = f"seed{'s' if len(sign.seeds) > 1 else ''} {','.join(map(str, sign.seeds))}" if sign.seeds else ""
    about = ", ".join(filter(None, (where, seeds)))
    return label + points + (f" ({about})" if about else "")


def _set_of(test: Test) -> TestSet:
    return TestSet(test.dataset, test.subset, None if test.interpolation == 1 else test.interpolation, test.transform)


def _model(record: Finished) -> tuple[str, str]:
    return record.run.weights_sha256, record.run.activation
