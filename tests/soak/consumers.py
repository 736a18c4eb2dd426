"""Holds every number that a command shows of a runs folder against what the predictions say."""

from __future__ import annotations

import csv
import html.parser
import io
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.soak.truth import (
    Answer,
    Cells,
    Ledger,
    Question,
    Source,
    distinct,
    expected_cells,
    harmonic,
    is_close,
    mean,
    tests_in,
)

Row = dict[str, Any]
_PRINTED = {"accuracy": "accuracy_pct", "macro-F1": "macro_f1_pct", "base": "base_accuracy_pct"} | {
    "new": "new_accuracy_pct",
    "H": "harmonic_mean_pct",
}
"""Head of a printed column -> the cell."""
_NUMBERS = ("base_accuracy_pct", "new_accuracy_pct", "harmonic_mean_pct", "accuracy_pct", "macro_f1_pct")


@dataclass
class Check:
    """Compares what consumers show of one folder, and keeps the differences.

    Attributes:
        ledger: What commands planned.
        runs_dir: The folder.
        name: Of the folder, for what is said of a difference.
        differences: A line each.
        counts: Consumer -> how many numbers of it were compared.
        shown: Verified rows of the tables of reports, by protocol, with the numbers that they have to show.
    """

    ledger: Ledger
    runs_dir: Path
    name: str = ""
    differences: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    shown: list[tuple[Row, Cells, list[Sequence[Answer]]]] = field(default_factory=list)

    def say(self, consumer: str, text: str) -> None:
        """Keep a difference."""
        self.differences.append(f"{self.name}: {consumer}: {text}")

    def number(self, consumer: str, what: str, value: Any, expected: float | None, places: int | None = None) -> None:
        """Compare one number."""
        self.counts[consumer] += 1
        if not is_close(value, expected, places):
            self.say(consumer, f"{what} is {value}, the predictions say {expected}")

    # tables -----------------------------------------------------------------------------------------------------------

    def table(self, consumer: str, rows: Sequence[Row], *, protocol: str = "") -> list[Row]:
        """Compare the rows of a table with the cells that they must have; return them with these cells.

        Args:
            consumer: That shows it.
            rows: With ``record_keys``, of a single table.
            protocol: Of the rows, where they do not say.
        """
        groups: dict[Any, set[Source]] = {}
        found: dict[int, tuple[Cells, dict[int, Mapping[str, Answer | None]]]] = {}
        single = [row for row in rows if row["row"] == "data set"]
        trained = [row for row in single if str(row["shots"]) != "0"]
        for row in (*trained, *(row for row in single if str(row["shots"]) == "0")):
            is_empty = all(row.get(name) in (None, "") for name in _NUMBERS)
            if is_empty and (str(row["shots"]) == "0" or row["seeds"] in (None, "")):
                continue  # the model as it is was not tested on it
            group = row["protocol"], row["dataset"]
            if str(row["shots"]) == "0" and not trained:
                sources = self._alone(protocol or row["protocol"], row)
            else:
                sources = self._sources(protocol or row["protocol"], row, groups.get(group))
            matching = {
                source: (cells, by_seed)
                for source, (cells, by_seed) in sources.items()
                if all(is_close(row[name], cells[name]) for name in cells.keys() & row.keys())
            }
            if not sources:
                self.say(consumer, f"nobody planned the row {_told(row)}")
                continue
            if str(row["shots"]) != "0":
                groups.setdefault(group, set()).update(matching or sources)
            cells, by_seed = next(iter((matching or sources).values()))
            for name in sorted(cells.keys() & row.keys()):
                self.number(consumer, f"{name} of {_told(row)}", row[name], cells[name])
            row["sources"] = set(matching)
            found[id(row)] = cells, by_seed
        self._averages(consumer, rows, {key: cells for key, (cells, _) in found.items()})
        self._leads(consumer, single, {key: by_seed for key, (_, by_seed) in found.items()})
        return [{**row, "expected": found[id(row)]} for row in single if id(row) in found]

    def _sources(
        self, protocol: str, row: Row, beside: set[Source] | None
    ) -> dict[Source, tuple[Cells, dict[int, Mapping[str, Answer | None]]]]:
        """Return what a row may say, by what may be behind its data set."""
        keys, name = _list(row["record_keys"]), str(row["dataset"]).partition(" (")[0]
        subsets = ("base", "new") if protocol == "base2new" else (row.get("subset") or "all",)
        transform = _transform(row)
        if protocol == "few-shot" and row.get("group") == "domain":
            name, transform = row["shift"], "identity"
        runs = [self.ledger.runs.get(key) for key in keys]
        found: dict[Source, tuple[Cells, dict[int, Mapping[str, Answer | None]]]] = {}
        if str(row["shots"]) == "0":
            usual = {source for plan in self.ledger.plans for source in plan.spec.sources.values()}
            for source in beside or usual:
                answers = {
                    subset: self.ledger.zero_shot.get((source, subset, transform))
                    for subset in subsets
                    if row.get(f"{subset}_accuracy_pct", 0) not in (None, "")  # `eval` may have tested one half alone
                }
                answers = {subset: answers.get(subset) for subset in subsets}
                if any(answers.values()):
                    found[source] = expected_cells(protocol, {s: [a] for s, a in answers.items()}), {-1: answers}
            return found
        if len(set(keys)) < len(keys) or None in runs or not keys:
            return found
        answers_of = [
            {subset: self.ledger.planned(protocol, key, Question(name, subset, transform)) for subset in subsets}
            for key in keys
        ]
        for source in distinct(source for known in answers_of for of in known.values() for source in of):
            by_subset = {subset: [known[subset].get(source) for known in answers_of] for subset in subsets}
            seeds = [run.seed for run in runs if run]
            if any(all(answers) for answers in by_subset.values()):
                by_seed: dict[int, Mapping[str, Answer | None]] = {
                    seed: {subset: by_subset[subset][place] for subset in subsets} for place, seed in enumerate(seeds)
                }
                found[source] = expected_cells(protocol, by_subset), by_seed
        return found

    def _alone(self, protocol: str, row: Row) -> dict[Source, tuple[Cells, dict[int, Mapping[str, Answer | None]]]]:
        """Return what a row of a model as it is may say where nothing was trained: any test of it under this name."""
        name, keys = str(row["dataset"]).partition(" (")[0], _list(row["record_keys"])
        subsets = ("base", "new") if protocol == "base2new" else (row.get("subset") or "all",)
        tested: dict[str, list[Answer | None]] = {subset: [] for subset in subsets}
        for path in self.runs_dir.glob("*/zero-shot/*/record.json"):
            for question, test, answer in tests_in(path.parent):
                if (question.dataset, question.transform) == (name, "identity") and test["training_key"] in keys:
                    tested.get(question.subset, []).append(answer)
        found: dict[Source, tuple[Cells, dict[int, Mapping[str, Answer | None]]]] = {}
        for number, chosen in enumerate(itertools.product(*([*options, None] for options in tested.values()))):
            answers = dict(zip(subsets, chosen, strict=True))
            cells = expected_cells(protocol, {subset: [answer] for subset, answer in answers.items()})
            found[Source(f"test {number} of the model alone")] = cells, {-1: answers}
        return found

    def _averages(self, consumer: str, rows: Sequence[Row], cells: Mapping[int, Cells]) -> None:
        for row in rows:
            if row["row"] == "data set" or all(row.get(name) in (None, "") for name in _NUMBERS):
                continue
            alike = [
                one
                for one in rows
                if id(one) in cells
                and all(one.get(name) == row.get(name) for name in ("method", "shots", "role", "shift", "severity"))
            ]
            known = [cells[id(one)] for one in alike]
            if row.get("shift") == "mean":  # of the kinds of shift, each its mean over severities
                continue
            if row["dataset"] != f"average of {len(known)}":
                self.say(consumer, f"{_told(row)} of {len(known)} rows")
                continue
            for name in ("base_accuracy_pct", "new_accuracy_pct", "accuracy_pct", "macro_f1_pct"):
                if name in row and name in known[0]:
                    self.number(consumer, f"{name} of {_told(row)}", row[name], _mean_of(known, name))
            if "harmonic_mean_pct" in row:
                both = (_mean_of(known, name) for name in ("base_accuracy_pct", "new_accuracy_pct"))
                self.number(consumer, f"H of {_told(row)}", row["harmonic_mean_pct"], harmonic(*both))
                name = "mean_of_harmonic_means_pct"
                self.number(consumer, f"{name} of {_told(row)}", row[name], _mean_of(known, "harmonic_mean_pct"))

    def _leads(
        self, consumer: str, rows: Sequence[Row], by_seed: Mapping[int, dict[int, Mapping[str, Answer | None]]]
    ) -> None:
        """Compare leads: of the leader over each row, and of its own row over another method."""
        for dataset in distinct((row["dataset"], row["shots"]) for row in rows if str(row["shots"]) != "0"):
            mine = [row for row in rows if row["dataset"] == dataset[0] and row["shots"] in (dataset[1], 0, "0")]
            leaders = [row for row in mine if row.get("lead_over") not in (None, "", row["method"])]
            for row in mine if len(leaders) == 1 and id(leaders[0]) in by_seed else ():
                other = row
                if row is leaders[0]:
                    other = next((one for one in mine if one["method"] == row["lead_over"]), row)
                seeds = [int(seed) for seed in _list(row.get("lead_seeds"))]
                if not seeds or id(other) not in by_seed:
                    continue
                first, second = (_over(by_seed[id(one)], seeds) for one in (leaders[0], other))
                for name in ("accuracy", "base_accuracy", "new_accuracy", "harmonic_mean"):
                    value = row.get(f"lead_{name}_pct")
                    if value not in (None, "") and first and second:
                        one, two = (cells.get(f"{name}_pct") for cells in (first, second))
                        lead = one - two if one is not None and two is not None else None
                        self.number(consumer, f"lead in {name} of {_told(row)}", value, lead)

    def complete(self, consumer: str, tables: Sequence[Sequence[Row]], *, but: Iterable[str] = ()) -> None:
        """See that every planned test of a training stands in a table, and its seeds in one row."""
        held: dict[tuple[str, str, str, str], set[Source]] = {}
        for row in (row for rows in tables for row in rows):
            for key in _list(row["record_keys"]):
                name, subset = row["dataset"].partition(" (")[0], row.get("subset") or ""
                held.setdefault((row["protocol"], key, name, subset), set()).update(row["sources"])
        for protocol, key, question, source in self.ledger.must_be_shown():
            if key in but:
                continue
            subset = question.subset if protocol == "few-shot" else ""
            self.counts[consumer] += 1
            if source not in held.get((protocol, key, question.dataset, subset), ()):
                run = self.ledger.runs[key]
                self.say(consumer, f"no {protocol} row of {run.folder} on {question.dataset} ({source})")

    # printed tables ---------------------------------------------------------------------------------------------------

    def printed(self, consumer: str, rows: Sequence[Row], grids: Iterable[Sequence[Mapping[str, str]]]) -> None:
        """Compare printed rows with those of the same tables that were compared already, whatever their order."""
        said: Counter[tuple[str, ...]] = Counter()
        heads: set[str] = set()
        for grid in grids:
            for line in grid:
                mine = sorted(name for name in _PRINTED if name in line)
                heads.update(mine)
                told = (line["data set"], line["method"], *(f"{name} {line[name]}" for name in mine))
                said[told] += 1
        expected: Counter[tuple[str, ...]] = Counter()
        for row in rows:
            mine = sorted(name for name, cell in _PRINTED.items() if cell in row and name in heads)
            numbers = [_text(row.get(_PRINTED[name])) for name in mine]
            told = (row["dataset"], row["method"], *map(" ".join, zip(mine, numbers, strict=True)))
            expected[told] += 1
        self.counts[consumer] += sum(len(line) - 2 for line in said.elements())
        for words, count in (said - expected).items():
            self.say(consumer, f"{count} x {words} is not what the predictions say")
        for words, count in (expected - said).items():
            self.say(consumer, f"{count} x {words} is missing")

    # figures ----------------------------------------------------------------------------------------------------------

    def figure(self, consumer: str, rows: Sequence[Row], tables: Sequence[Row]) -> None:
        """Compare the numbers behind a figure with those of the rows of tables that it can be of."""
        sums: dict[tuple[str, str, str, str], float] = {}
        for row in rows:
            if row.get("dataset", "average").startswith("average") or not row.get("method"):
                continue
            alike = [
                one["expected"]
                for one in tables
                if one["dataset"] == row["dataset"]
                and one["method"].partition(" (")[0] == str(row["method"]).partition(" (")[0]
                and row.get("num_seeds", one["num_seeds"]) in (one["num_seeds"], str(one["num_seeds"]))
            ]
            if str(row.get("shots")) == "0" and all(
                cells.get(name) is None for cells, _ in alike for name in row.keys() & set(_NUMBERS)
            ):  # see `table`: a model alone
                self._of_a_model(consumer, row)
                continue
            told = f"{row['method']} on {row['dataset']}"
            if "share_pct" in row and "bin" in row:
                if row["accuracy_pct"] not in (None, ""):
                    place = (row["dataset"], row["subset"], row["method"], str(row["num_seeds"]))
                    sums[place] = sums.get(place, 0.0) + float(row["share_pct"]) * float(row["accuracy_pct"]) / 100
            elif "class_name" in row:
                self._class(consumer, row, alike, told)
            else:
                for name in row.keys() & set(_NUMBERS):
                    self._one_of(consumer, f"{name} of {told}", row[name], [cells.get(name) for cells, _ in alike])
        for (dataset, subset, method, _), accuracy in sums.items():
            found = [
                mean([answer.accuracy for of in by_seed.values() if (answer := of.get(subset))])
                for one in tables
                if one["dataset"] == dataset and one["method"].partition(" (")[0] == method.partition(" (")[0]
                for _, by_seed in [one["expected"]]
            ]
            self._one_of(consumer, f"accuracy over bins of {method} on {dataset}", accuracy, found, 1e-6)

    def _of_a_model(self, consumer: str, row: Row) -> None:
        """Compare numbers of a model that stands alone with all that it was tested on under this name."""
        name = row["dataset"].partition(" (")[0]
        found = [
            answer.accuracy
            for path in self.runs_dir.glob("*/zero-shot/*/record.json")
            for question, _, answer in tests_in(path.parent)
            if (question.dataset, question.transform) == (name, "identity")
        ]
        for cell in ("accuracy_pct", "base_accuracy_pct", "new_accuracy_pct"):
            if row.get(cell) not in (None, "") and "bin" not in row and "class_name" not in row:
                self._one_of(consumer, f"{cell} of {row['method']} on {row['dataset']}", row[cell], found)

    def _class(self, consumer: str, row: Row, alike: Sequence[Any], told: str) -> None:
        """Compare the accuracy of a class, or the share of it that is taken for another."""
        name, other = row["class_name"], row.get("predicted_class_name")
        found = [
            [answer for of in by_seed.values() if (answer := of.get(row["subset"])) and name in answer.class_names]
            for _, by_seed in alike
        ]
        if other is not None:
            shares = [mean([answer.share(name, other) for answer in answers]) for answers in found]
            self._one_of(consumer, f"share of {name} taken for {other} by {told}", row["share_pct"], shares)
        else:
            scores = [mean([answer.of_class(name) for answer in answers]) for answers in found]
            self._one_of(consumer, f"accuracy of {name} by {told}", row["accuracy_pct"], scores)

    def _one_of(self, consumer: str, what: str, value: Any, found: Sequence[float | None], most: float = 1e-9) -> None:
        self.counts[consumer] += 1
        if value in (None, ""):
            return
        if not any(expected is not None and abs(float(value) - expected) <= most for expected in found):
            self.say(consumer, f"{what} is {value}, the predictions say {distinct(found)}")

    # tests by themselves ----------------------------------------------------------------------------------------------

    def every_test(self, consumer: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Compare rows of single tests, by their keys."""
        answers = {
            test["key"]: answer
            for path in self.runs_dir.glob("*/*/*/record.json")
            for _, test, answer in tests_in(path.parent)
        }
        if missing := answers.keys() - {row["test_key"] for row in rows}:
            self.say(consumer, f"{len(missing)} tests are not shown")
        for row in rows:
            answer = answers[row["test_key"]]
            self.number(consumer, f"accuracy of test {row['test_key'][:12]}", row["accuracy_pct"], answer.accuracy)
            self.number(consumer, f"macro-F1 of test {row['test_key'][:12]}", row["macro_f1_pct"], answer.macro_f1)

    def differences_from_plan(self, consumer: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """See that no planned test is said to be another than planned."""
        for row in rows:
            key = row.get("training_key") or row["key"]
            run = self.ledger.runs.get(key)
            name = row.get("test_dataset") or row["dataset"]
            question = Question(name, row.get("test_subset") or row["subset"], row["transform"], row["interpolation"])
            planned = self.ledger.planned("any", key, question)
            if not run or not run.is_trained or not planned:
                continue
            same = any(is_close(row["accuracy_pct"], one.accuracy) for one in planned.values())
            if not same and not row["difference_from_plan"]:
                self.say(consumer, f"{question} of {run.folder} is said to be as planned")
            self.counts[consumer] += 1

    def listed(self, consumer: str, rows: Sequence[Row]) -> None:
        """Compare the accuracy of runs on what they were trained on."""
        runs = {key[:12]: (key, run) for key, run in self.ledger.runs.items() if run.is_trained}
        for row in rows:
            key, run = runs.get(row["key"], ("", None))
            if run and row["accuracy_pct"] not in (None, ""):
                found = self.ledger.planned("any", key, Question(run.dataset, run.subset))
                scores = [answer.accuracy for answer in found.values()]
                self._one_of(consumer, f"accuracy of {run.folder}", row["accuracy_pct"], scores)
            elif run:
                self.say(consumer, f"no accuracy of {run.folder}")

    def pushed(self, consumer: str, folder: Path, run_folder: Path) -> None:
        """Compare the numbers of a folder that would be pushed."""
        summary = json.loads((folder / "run.json").read_text())
        keys = {int(seed): key for seed, key in summary["training"]["run_keys"].items()}
        tests = {
            key: [
                (test, answer)
                for place in run_folder.parent.iterdir()
                if json.loads((place / "record.json").read_text())["key"] == key
                for _, test, answer in tests_in(place)
            ]
            for key in keys.values()
        }
        names = ("dataset", "subset", "templates", "precision", "transform", "interpolation", "split_sha256")
        for result in summary["results"]:
            for seed, value in result["accuracy_pct"].items():
                found = [
                    answer
                    for test, answer in tests[keys[int(seed)]]
                    if all(test[name] == result[name] for name in (*names, "images_sha256"))
                ]
                self._one_of(consumer, f"{result['dataset']} of seed {seed}", value, [one.accuracy for one in found])
                f1 = result["macro_f1_pct"][seed]
                self._one_of(consumer, f"F1 on {result['dataset']} of seed {seed}", f1, [one.macro_f1 for one in found])
        self._model_index(consumer, (folder / "README.md").read_text(), keys)

    def _model_index(self, consumer: str, text: str, keys: Mapping[int, str]) -> None:
        import yaml  # type: ignore[import-untyped, unused-ignore]

        card = yaml.safe_load(text.split("---\n")[1])
        for result in card.get("model-index", [{"results": []}])[0]["results"]:
            name, subset = result["dataset"]["name"], result["dataset"]["config"]
            for metric in result["metrics"]:
                mine = [keys[seed] for seed in metric["args"]["seeds"]]
                found = [self.ledger.planned("any", key, Question(name, subset)) for key in mine]
                sources = set.union(*(set(one) for one in found))
                means = [mean([one[source].accuracy for one in found if source in one]) for source in sources]
                self._one_of(consumer, f"the card's accuracy on {name} ({subset})", metric["value"], means, 5.1e-5)


def csv_rows(text: str) -> list[Row]:
    """Return the rows of CSV."""
    return list(csv.DictReader(io.StringIO(text)))


def markdown_grids(text: str) -> list[list[dict[str, str]]]:
    """Return the tables of results in Markdown."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", text, re.M)
    return [grid for block in blocks if (grid := _grid([_cells_of_line(line) for line in block.splitlines()], 2))]


def latex_grids(text: str) -> list[list[dict[str, str]]]:
    """Return the tables of results in LaTeX."""
    found = []
    for block in re.findall(r"\\toprule\n(.*?)\\bottomrule", text, re.S):
        lines = [line[: line.rindex(r"\\")] for line in block.splitlines() if line.endswith(r"\\")]
        heads = lines[0]
        rows = [line for line in lines if line != heads]
        cells = [[_plain(cell) for cell in re.split(r"(?<!\\)&", line)] for line in (heads, *rows)]
        found.append(_grid(cells, 1))
    return [grid for grid in found if grid]


def html_grids(text: str) -> list[list[dict[str, str]]]:
    """Return the tables of results on a page, whose captions say what is the same in all rows."""
    page = _Page()
    page.feed(text)
    found = []
    for caption, cells in zip(page.captions, page.tables, strict=True):
        heads, *rows = ([_plain(cell) for cell in row] for row in cells)
        for name in ("method", "data set"):
            same = next((part.removeprefix(f"{name} ") for part in caption.split(" · ") if part.startswith(name)), "")
            if name not in heads and same:
                heads, rows = [name, *heads], [[_plain(same), *row] for row in rows]
        if grid := _grid([heads, *rows], 1):
            found.append(grid)
    return found


class _Page(html.parser.HTMLParser):
    """Collects tables as rows of texts, without those of figures."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.captions: list[str] = []
        self._in_figure = self._in_cell = self._in_caption = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_figure = self._in_figure or tag == "figure"
        if tag == "table" and not self._in_figure:
            self.tables.append([])
            self.captions.append("")
        elif tag == "caption" and not self._in_figure:
            self._in_caption = True
        elif tag == "tr" and not self._in_figure and self.tables:
            self.tables[-1].append([])
        elif tag in ("td", "th") and not self._in_figure:
            self.tables[-1][-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._in_figure = self._in_figure and tag != "figure"
        self._in_cell = self._in_cell and tag not in ("td", "th")
        self._in_caption = self._in_caption and tag != "caption"

    def handle_data(self, data: str) -> None:
        if self._in_caption:
            self.captions[-1] += data
        elif self._in_cell and not self._in_figure:
            self.tables[-1][-1][-1] += data


def _grid(lines: Sequence[Sequence[str]], first: int) -> list[dict[str, str]]:
    """Return the rows of a table of results; nothing of another table."""
    heads = lines[0]
    if not {"data set", "method"} <= set(heads) or not set(_PRINTED) & set(heads) or "class" in heads:
        return []
    return [dict(zip(heads, line, strict=False)) for line in lines[first:] if len(line) >= len(heads) - 1]


def _cells_of_line(line: str) -> list[str]:
    return [_plain(cell) for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]


def _plain(cell: str) -> str:
    """Return a cell without its marks and spread."""
    cell = re.sub(r"\\textbf\{([^}]*)\}", r"\1", cell).replace(r"$\approx$", "").replace(r"$\pm$", "±")
    cell = cell.replace("**", "").replace("≈", "").replace("--", "–").partition("±")[0]
    return re.sub(r"\\([_%&#*])", r"\1", cell).strip()


def _text(value: Any) -> str:
    return "–" if value in (None, "") else f"{float(value):.2f}"


def _list(value: Any) -> list[Any]:
    return value.split(";") if isinstance(value, str) and value else list(value or [])


def _transform(row: Row) -> str:
    """Return what was done to the images of a row of `robustness`."""
    return f"{row['shift']}:{row['severity']}" if row.get("shift") not in (None, "", "clean") else "identity"


def _told(row: Row) -> str:
    names = ("row", "protocol", "dataset", "method", "shots", "seeds", "subset", "shift", "severity", "templates")
    return ", ".join(f"{row[name]}" for name in names if row.get(name) not in (None, ""))


def _mean_of(cells: Sequence[Cells], name: str) -> float | None:
    values = [known[name] for known in cells]
    return mean([value for value in values if value is not None]) if None not in values else None


def _over(by_seed: Mapping[int, Mapping[str, Answer | None]], seeds: Sequence[int]) -> Cells:
    """Return the numbers of some seeds; what trains nothing is the same for all."""
    found = [by_seed.get(seed) or by_seed.get(-1) for seed in seeds]
    if not all(found):
        return {}
    subsets = next(iter(by_seed.values())).keys()
    protocol = "base2new" if "base" in subsets and "new" in subsets else "few-shot"
    return expected_cells(protocol, {subset: [of[subset] for of in found if of] for subset in subsets})
