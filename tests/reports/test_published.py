"""Published numbers are those of their sources, to the letter, and what does not fit is seen when they are read."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

from clipfit_cli import methods
from clipfit_cli.data.catalog import FEW_SHOT_DATASETS
from clipfit_cli.errors import ResultsError
from clipfit_cli.reports.published import FOLDER, Library, library
from clipfit_cli.reports.published_number import AVERAGES, MEAN_OF, NEITHER, OF_MEANS, UNCHECKED, Published
from clipfit_cli.reports.published_table import table_of

ROOT = Path(__file__).parents[2]
FACTS = ROOT.parent / "shared" / "published"
DATASETS = {"fgvc": "fgvc_aircraft"}
BACKBONES = {"ViT-B/16": "ViT-B-16", "RN50": "RN50"}
MEANS_OF_H = {"HPT", "RMAdapter", "EvoPrompt", "TAC", "CAPT"}
MISPRINTS = {("PromptKD", "stanford_cars"), ("PromptKD", "ucf101")}

Edit = Callable[[dict[str, str]], dict[str, str] | None]


@pytest.fixture
def edited(tmp_path: Path) -> Callable[..., Library]:
    """Return a function that reads the numbers after each row of a file was changed."""

    def read(edit: Edit, file: str = "numbers.csv") -> Library:
        folder = tmp_path / "numbers"
        shutil.copytree(FOLDER, folder)
        with (folder / file).open(newline="") as old:
            rows = list(csv.DictReader(old))
        changed = [row for row in map(edit, rows) if row]
        with (folder / file).open("w", newline="") as new:
            writer = csv.DictWriter(new, rows[0])
            writer.writeheader()
            writer.writerows(changed)
        return library(folder)

    return read


def facts(name: str) -> Iterator[dict[str, str]]:
    with (FACTS / name).open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def printed(*names: str, protocol: str) -> list[tuple[str, ...]]:
    """Return the named columns of all rows of a protocol, as texts, without what is derived."""
    with (FOLDER / "sources.csv").open(newline="", encoding="utf-8") as file:
        sources = {row["name"]: row["source"] for row in csv.DictReader(file)}
    with (FOLDER / "numbers.csv").open(newline="", encoding="utf-8") as file:
        rows = [{**row, "source": sources[row["source"]]} for row in csv.DictReader(file)]
    kept = [row for row in rows if row["protocol"] == protocol and row["derived"] == "no"]
    return sorted(tuple(row[name] for name in names) for row in kept)


@pytest.mark.real_data
@pytest.mark.skipif(not FACTS.is_dir(), reason="no published facts beside the checkout")
def test_base_to_new_numbers_are_the_facts_to_the_letter() -> None:
    scores = ("base_accuracy_pct", "new_accuracy_pct", "harmonic_mean_pct")
    expected = []
    for row in facts("base2new_vitb16_16shot.csv"):
        expected.append((row["method"], row["dataset"], "", *(row[name] for name in scores), row["source"]))
    for row in facts("base2new_vitb16_avg11_newer.csv"):
        expected.append((row["method"], "average of 11", "", *(row[name] for name in scores), row["source"]))
    for row in facts("gda_base2new_vitb16_per_seed.csv"):
        dataset = DATASETS.get(row["dataset"], row["dataset"])
        expected.append((row["method"], dataset, row["seed"], *(row[n] for n in scores[:2]), "", row["source"]))
    assert printed("method", "dataset", "seed", *scores, "source", protocol="base2new") == sorted(expected)
    marked = {row["method"] for row in facts("base2new_vitb16_avg11_newer.csv") if row["transductive"] == "True"}
    assert marked == {row.method for row in library().rows if row.transductive} - {"PromptKD"}


@pytest.mark.real_data
@pytest.mark.skipif(not FACTS.is_dir(), reason="no published facts beside the checkout")
def test_few_shot_and_transfer_numbers_are_the_facts_to_the_letter() -> None:
    expected = [
        (row["method"], "ViT-B-16", row["shots"], "average of 11", row["accuracy_pct"], row["source"])
        for row in facts("few_shot_vitb16_avg11.csv")
    ]
    by = set()
    for row in facts("few_shot_per_dataset.csv"):
        where = (row["method"], BACKBONES[row["backbone"]], row["shots"], row["dataset"])
        expected.append((*where, row["accuracy_pct"], row["source"]))
        by.add((*where, row["reported_by"], row["source"]))
    columns = ("method", "backbone", "shots", "dataset")
    assert printed(*columns, "accuracy_pct", "source", protocol="few-shot") == sorted(expected)
    assert by <= set(printed(*columns, "reported_by", "source", protocol="few-shot"))
    places = {"imagenet": "source_imagenet_accuracy_pct", "average of 10": "mean_10_targets_accuracy_pct"}
    places["average of 4"] = "mean_4_imagenet_variants_accuracy_pct"
    transfers = facts("xdataset_vitb16_imagenet16.csv")
    rows = [(row["method"], name, row[column], row["source"]) for row in transfers for name, column in places.items()]
    assert printed("method", "dataset", "accuracy_pct", "source", protocol="xdataset") == sorted(rows)


def test_every_convention_is_the_one_that_a_computation_with_decimals_gives() -> None:
    half, two = Decimal("0.005"), Decimal(2)
    seen = 0
    for row in library().rows:
        base, new, shown = (
            None if value is None else Decimal(repr(value))
            for value in (row.base_accuracy_pct, row.new_accuracy_pct, row.harmonic_mean_pct)
        )
        if base is None or new is None or shown is None:
            assert row.h_convention == (UNCHECKED if shown else "")
            continue
        least, most = ((two * b * n / (b + n)) for b, n in ((base - half, new - half), (base + half, new + half)))
        agrees = least - half <= shown <= most + half
        assert agrees == (row.h_convention == OF_MEANS), row
        seen += 1
    assert seen > 170
    odd = {
        word: {(row.method, row.dataset) for row in library().rows if row.h_convention == word}
        for word in (MEAN_OF, NEITHER)
    }
    assert odd == {MEAN_OF: {(name, "average of 11") for name in MEANS_OF_H}, NEITHER: MISPRINTS}


def test_a_source_whose_misprints_were_corrected_names_those_that_were_not() -> None:
    corrected = [row for row in library().rows if "recomputed" in row.note]
    assert {row.source_name for row in corrected} == {"promptkd", "skip-tuning"} and len(corrected) == 144
    others = [row for row in corrected if row.h_convention != OF_MEANS]
    for row in others:
        base, new, printed = row.base_accuracy_pct, row.new_accuracy_pct, row.harmonic_mean_pct
        assert base and new and printed
        recomputed = 2 * base * new / (base + new)
        assert f"{row.dataset} ({printed:.2f}, recomputed {recomputed:.2f})" in row.note and row.method in row.note
    assert sum(row.note.count(", recomputed ") for row in {one.source: one for one in corrected}.values()) == len(
        others
    )


@pytest.mark.parametrize(
    ("method", "dataset", "change", "convention"),
    [
        ("CLIP", "dtd", "56.47", NEITHER),
        ("CLIP", "dtd", "56.27", NEITHER),
        ("MMA", "average of 11", "79.97", NEITHER),
        ("MMA", "average of 11", "79.67", MEAN_OF),
        ("MMA", "average of 11", "77.87", NEITHER),
        ("MMA", "average of 11", "79.88", OF_MEANS),
    ],
)
def test_a_misprint_is_seen(
    edited: Callable[..., Library], method: str, dataset: str, change: str, convention: str
) -> None:
    def edit(row: dict[str, str]) -> dict[str, str]:
        is_it = (row["method"], row["dataset"]) == (method, dataset)
        return {**row, "harmonic_mean_pct": change} if is_it else row

    found = edited(edit).rows
    (row,) = [one for one in found if (one.method, one.dataset) == (method, dataset) and not one.derived]
    assert row.h_convention == convention
    told = " ".join(table_of([row]).captions)
    assert (f"{method} on {dataset}" in told) == (convention in (NEITHER, MEAN_OF))


def zero_shots(backbone: str) -> dict[str, str]:
    """Return data set -> zero-shot accuracy of the few-shot rows of a backbone, without averages."""
    return {
        row.dataset: str(row.accuracy_pct)
        for row in library().rows
        if (row.protocol, row.backbone, row.clipfit_method) == ("few-shot", backbone, "zero-shot")
        and row.dataset in FEW_SHOT_DATASETS
    }


def is_zero_shot_of_awt(row: dict[str, str]) -> bool:
    return row["source"] == "awt" and row["shots"] == "0"


@pytest.mark.parametrize("only", [(), ("oxford_flowers",), ("eurosat",)])
def test_numbers_of_another_backbone_are_refused(edited: Callable[..., Library], only: tuple[str, ...]) -> None:
    others = zero_shots("RN50")

    def edit(row: dict[str, str]) -> dict[str, str] | None:
        if not is_zero_shot_of_awt(row):
            return row
        return {**row, "accuracy_pct": others[row["dataset"]]} if not only or row["dataset"] in only else None

    found = edited(edit)
    assert not [row for row in found.rows if row.source_name == "awt"]
    (reason,) = found.refused
    assert "AWT_results.xlsx (few-shot, ViT-B-16): its zero-shot row is that of RN50" in reason


def test_numbers_under_a_backbone_that_is_not_known_are_refused_where_they_are_those_of_a_known_one(
    edited: Callable[..., Library],
) -> None:
    found = edited(lambda row: {**row, "backbone": "ViT-B-32"} if row["source"] == "awt" else row)
    assert ["ViT-B-16, not of ViT-B-32" in reason for reason in found.refused] == [True]


@pytest.mark.parametrize(("dataset", "points"), [("", -6.0), ("food101", -18.0)])
def test_a_zero_shot_row_far_from_clips_own_is_refused(
    edited: Callable[..., Library], dataset: str, points: float
) -> None:
    def edit(row: dict[str, str]) -> dict[str, str]:
        is_it = row["method"] == "CLIP" and dataset in ("", row["dataset"])
        return {**row, "base_accuracy_pct": str(float(row["base_accuracy_pct"]) + points)} if is_it else row

    found = edited(edit)
    assert ["its zero-shot row is not CLIP's on ViT-B-16" in reason for reason in found.refused] == [True]
    assert not [row for row in found.rows if row.source_name == "promptkd"]


def test_what_is_checked_has_a_zero_shot_row_and_what_has_none_is_not() -> None:
    rows = library().rows
    having = {(row.source_name, row.protocol, row.backbone) for row in rows if row.clipfit_method == "zero-shot"}
    assert len(having) == 4
    for row in rows:
        is_checked = (row.source_name, row.protocol, row.backbone) in having
        assert row.zero_shot_row == ("checked" if is_checked else "unchecked")
    assert not library().refused


def test_what_learns_from_test_images_is_never_unmarked() -> None:
    rows = [row for row in library().rows if "PromptKD" in row.method or "OnPoKD" in row.method]
    assert len(rows) > 15 and all(row.transductive for row in rows)
    table = table_of(library().rows)
    for row, cells in zip(library().rows, table.rows, strict=True):
        assert cells["transductive"] is row.transductive
        assert ("transductive" in str(cells["shown"])) == row.transductive
        assert ("derived" in str(cells["shown"])) == row.derived


def test_every_row_has_a_source_and_every_method_of_ours_is_one() -> None:
    rows = library().rows
    assert all(row.source.strip() and row.reported_by in ("authors", "third party") for row in rows)
    assert {row.clipfit_method for row in rows} - {""} <= set(methods.available())
    assert {"clipfit", "zero-shot", "coop"} <= {row.clipfit_method for row in rows}


def test_clipfit_itself_is_its_two_derived_averages_alone() -> None:
    found = [row for row in library().rows if row.clipfit_method == "clipfit"]
    assert [(row.dataset, row.harmonic_mean_pct, row.derived) for row in found] == [
        ("average of 11", 78.97, True),
        ("average of 11", 79.03, True),
    ]
    assert all(row.base_accuracy_pct is row.new_accuracy_pct is row.accuracy_pct is None for row in found)


def one(method: str, dataset: str, **where: object) -> Published:
    rows = [row for row in library().rows if (row.method, row.dataset, row.seed) == (method, dataset, None)]
    (row,) = [row for row in rows if all(getattr(row, name) == value for name, value in where.items())]
    return row


def test_averages_that_a_source_does_not_print_are_derived_from_all_its_rows() -> None:
    average = one("CLIP", "average of 11")
    assert average.derived and average.zero_shot_row == "checked"
    assert average.harmonic_mean_pct == pytest.approx(71.70, abs=0.005)
    seeds = one("GDA", "dtd")
    assert seeds.base_accuracy_pct == pytest.approx((80.67 + 81.02 + 80.21) / 3) and seeds.derived
    assert not one("GDA", "average of 11").derived
    assert one("LP++", "average of 10").accuracy_pct == pytest.approx(81.21)
    assert not [row for row in library().rows if row.dataset in AVERAGES and row.source_name == "orthoadapt"]


def test_an_average_over_seeds_and_data_sets_is_the_one_that_its_source_prints(edited: Callable[..., Library]) -> None:
    printed = one("GDA", "average of 11")
    rows = edited(lambda row: None if row["source"] == "gda-average" else row).rows
    (derived,) = [row for row in rows if (row.method, row.dataset) == ("GDA", "average of 11")]
    for name in ("base_accuracy_pct", "new_accuracy_pct", "harmonic_mean_pct"):
        assert round(getattr(derived, name), 2) == getattr(printed, name)


def test_no_average_is_derived_where_a_data_set_is_missing(edited: Callable[..., Library]) -> None:
    found = edited(lambda row: None if (row["method"], row["dataset"]) == ("CLIP", "dtd") else row)
    assert not [row for row in found.rows if row.method == "CLIP" and row.dataset in AVERAGES]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("source", ""),
        ("source", "nowhere"),
        ("protocol", "linear"),
        ("dataset", "average of 12"),
        ("reported_by", ""),
        ("transductive", "maybe"),
        ("derived", ""),
        ("shots", "many"),
        ("shots", "9" * 5000),
        ("seed", "1.5"),
        ("base_accuracy_pct", "nan"),
        ("base_accuracy_pct", "-1"),
        ("accuracy_pct", "100.5"),
        ("accuracy_pct", "12,5"),
    ],
)
def test_a_row_that_holds_what_its_column_cannot_is_not_read(
    edited: Callable[..., Library], column: str, value: str
) -> None:
    with pytest.raises(ResultsError, match="the published numbers in .* cannot be read.*install clipfit again"):
        edited(lambda row: {**row, column: value} if row["method"] == "MMA" else row)


def test_a_source_without_words_and_a_missing_file_are_not_read(edited: Callable[..., Library], tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="unknown source 'mma'"):
        edited(lambda row: {**row, "source": " "} if row["name"] == "mma" else row, "sources.csv")
    with pytest.raises(ResultsError, match="cannot be read"):
        library(tmp_path / "nothing")


@pytest.mark.parametrize("builder", [WheelBuilder, SdistBuilder])
def test_the_numbers_are_packed(builder: type[WheelBuilder] | type[SdistBuilder]) -> None:
    packed = {Path(file.path) for file in builder(str(ROOT)).recurse_included_files()}
    assert {FOLDER / name for name in ("numbers.csv", "methods.csv", "sources.csv", "zero_shot.csv")} <= packed
