"""Which published rows are shown for what is asked for, and beside what was measured."""

from __future__ import annotations

from typing import Any

import pytest

from clipfit_cli.config import ModelConfig, Subset, TestSet
from clipfit_cli.data.catalog import FEW_SHOT_DATASETS, IMAGENET_VARIANTS
from clipfit_cli.errors import ConfigError, UnknownNameError
from clipfit_cli.reports.published import library
from clipfit_cli.reports.published_number import Published
from clipfit_cli.reports.published_table import agreeing, select, table_of, tables_of
from clipfit_cli.reports.tables import AVERAGE_ROW
from clipfit_cli.results.record import Finished
from tests.results.result_examples import make_config, make_finished, zero_shot_config

ROWS = library().rows
TARGETS = tuple(name for name in FEW_SHOT_DATASETS if name != "imagenet")


def measured(
    *datasets: str, methods: tuple[str, ...] = ("clipfit",), run: dict[str, Any] | None = None, **changes: Any
) -> list[Finished]:
    """Return zero-shot CLIP and methods, base to new, unless `changes` say otherwise."""
    found = []
    for dataset in datasets:
        tests = changes.get("tests") or (TestSet(dataset, "base"), TestSet(dataset, "new"))
        common = {**changes, "dataset": dataset, "tests": tests}
        found.append(make_finished(zero_shot_config(**{**common, "shots": 0}), run=run))
        found += [make_finished(make_config(**common, method=method), run=run) for method in methods]
    return found


def few_shot(*datasets: str, subset: Subset = "all", **changes: Any) -> list[Finished]:
    return [
        record
        for dataset in datasets
        for record in measured(
            dataset, protocol="few-shot", subset=subset, tests=(TestSet(dataset, subset),), **changes
        )
    ]


def transfer(source: str, *targets: str, **changes: Any) -> list[Finished]:
    tests = tuple(TestSet(name) for name in (source, *targets))
    return measured(source, protocol="xdataset", subset="all", tests=tests, **changes)


def shown(records: list[Finished]) -> list[Published]:
    rows, reason = agreeing(ROWS, records)
    assert bool(rows) != bool(reason)
    return rows


def test_methods_of_the_comparison_come_first_and_each_source_has_its_row() -> None:
    rows = shown(measured("dtd", methods=("kgcoop", "promptsrc")))
    assert [row.clipfit_method for row in rows[:3]] == ["zero-shot", "kgcoop", "promptsrc"]
    assert {row.dataset for row in rows} == {"dtd"} and {row.shots for row in rows} == {0, 16}
    assert {row.method for row in rows} >= {"CoOp", "TCP", "GDA"} and all(row.seed is None for row in rows)
    records = few_shot(*FEW_SHOT_DATASETS, methods=("coop",))
    averages = [row for row in shown(records) if row.dataset == "average of 11" and row.clipfit_method == "coop"]
    assert [(row.source_name, round(row.accuracy_pct or 0, 2)) for row in averages] == [
        ("clip-svd", 79.01),
        ("awt", 79.89),
    ]


@pytest.mark.parametrize("backbone", ["ViT-B-16", "ViT-B-16-quickgelu", "RN50"])
def test_rows_are_of_the_backbone_alone(backbone: str) -> None:
    rows = shown(few_shot("dtd", model=ModelConfig(backbone, "openai")))
    assert {row.backbone for row in rows} == {backbone.removesuffix("-quickgelu")}


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        (measured("dtd", model=ModelConfig("ViT-B-32", "openai")), "OpenAI's weights, these runs of ViT-B-32 / openai"),
        (measured("dtd", model=ModelConfig("ViT-B-16", "laion2b_s34b_b88k")), "these runs of ViT-B-16 / laion2b"),
        (measured("dtd", run={"activation": "gelu"}), "published numbers are of RN50 and ViT-B-16"),
        (measured("dtd", model=ModelConfig("RN50", "openai")), "no published number is of base2new on dtd at 16 shots"),
        (measured("mine"), "no published number is of base2new on mine at 16 shots"),
        (few_shot("dtd", subset="base"), "are of all classes"),
        (transfer("caltech101", *TARGETS), "are from imagenet, these runs from caltech101"),
        (transfer("imagenet", "dtd", shots=4), "no published number is of xdataset on imagenet at 4 shots"),
        (transfer("imagenet", "dtd", shots=None), "at all shots"),
    ],
)
def test_what_does_not_agree_is_not_shown_and_a_line_says_why(records: list[Finished], reason: str) -> None:
    rows, told = agreeing(ROWS, records)
    assert not rows and reason in told and "\n" not in told


def test_shots_are_those_that_were_measured() -> None:
    rows = shown(few_shot("dtd", shots=4))
    assert {row.shots for row in rows} == {0, 4}
    assert {row.shots for row in shown([*few_shot("dtd", shots=4), *few_shot("dtd", shots=1)])} == {0, 1, 4}
    assert {row.shots for row in shown(few_shot("dtd", shots=None))} == {0}


@pytest.mark.parametrize(
    ("records", "averages"),
    [
        (measured(*FEW_SHOT_DATASETS), {"average of 11"}),
        (measured(*FEW_SHOT_DATASETS[:-1]), set()),
        (few_shot(*TARGETS), {"average of 10"}),
        (few_shot(*FEW_SHOT_DATASETS), {"average of 11"}),
        (transfer("imagenet", *TARGETS), {"average of 10"}),
        (transfer("imagenet", *IMAGENET_VARIANTS), {"average of 4"}),
        (transfer("imagenet", *TARGETS, *IMAGENET_VARIANTS), {"average of 10", "average of 4"}),
        (transfer("imagenet", "dtd", "ucf101", "food101", "sun397"), set()),
    ],
)
def test_an_average_is_shown_where_all_of_it_was_measured(records: list[Finished], averages: set[str]) -> None:
    rows = shown(records)
    assert {row.dataset for row in rows if row.dataset.startswith("average")} == averages
    places = [row.dataset.startswith("average") for row in rows]
    assert places == sorted(places)


def test_what_is_asked_for_is_found_by_any_of_its_names() -> None:
    def found(shots: tuple[int | None, ...] = (), **wanted: list[str]) -> set[tuple[str, str, int]]:
        return {(row.method, row.dataset, row.shots) for row in select(ROWS, wanted, shots)}

    assert found(method=["skip-tuning"]) == found(method=["skipt", "SkipTuning"])
    assert found(dataset=["DTD"]) == found(dataset=["dtd"]) == {one for one in found() if one[1] == "dtd"}
    assert {one[1] for one in found(dataset=["all"])} == set(FEW_SHOT_DATASETS)
    assert {one[2] for one in found(shots=(4,), protocol=["few-shot"])} == {0, 4}
    assert found(source=["mma"]) == {("MMA", "average of 11", 16)}
    assert len(select(ROWS, {}, ())) == len(ROWS)


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("dataset", "zzz", "Known: average of 10, average of 11, .*, ucf101"),
        ("protocol", "zzz", "Known: base2new, few-shot, xdataset"),
        ("backbone", "zzz", "Known: RN50, ViT-B-16"),
        ("source", "zzz", "Known: 2sfs, ape"),
        ("method", "zzz", "Known: .*clip-lora, .*zero-shot"),
        ("method", "co-op", "Did you mean 'coop'"),
    ],
)
def test_names_that_are_not_there_list_those_that_are(kind: str, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown .*{name}.*{message}") as caught:
        select(ROWS, {kind: [name]}, ())
    assert isinstance(caught.value, UnknownNameError) or kind == "method"


def test_nothing_that_is_all_of_it_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no published number is of protocol base2new and backbone RN50 and shots 4;"):
        select(ROWS, {"protocol": ["base2new"], "backbone": ["RN50"], "method": []}, (4,))


def test_a_table_leaves_out_what_is_the_same_in_every_row_and_programs_see_all() -> None:
    dtd = select(ROWS, {"dataset": ["dtd"], "protocol": ["base2new"]}, ())
    table = table_of(dtd, captions=["last"])
    assert table.title == "Published numbers · base2new · ViT-B-16 / openai · dtd · 16 shots"
    heads = [column.head for column in table.columns if column.terminal]
    assert heads == ["method", "base", "new", "H", "by", "zero-shot", "source"]
    assert {"dataset", "method", "seed", "accuracy_pct", "h_convention", "derived"} <= {
        column.key for column in table.columns if column.csv
    }
    assert table.captions[-1] == "last"
    assert "skip-tuning: SkipTuning repo, examples/base_to_new.png" in "\n".join(table.captions)
    assert not any(row[AVERAGE_ROW] for row in table.rows)
    few = select(
        ROWS, {"dataset": ["dtd", "average of 11"], "protocol": ["few-shot"], "source": ["rvp", "clip-svd"]}, ()
    )
    two = table_of(few)
    assert [column.head for column in two.columns if column.terminal][:4] == ["data set", "method", "shots", "accuracy"]
    assert two.title.endswith("few-shot · ViT-B-16 / openai")
    assert {row["dataset"] for row in two.rows if row[AVERAGE_ROW]} == {"average of 11"}


def test_people_see_protocols_backbones_and_averages_apart() -> None:
    tables = tables_of(select(ROWS, {}, ()), title="Numbers", captions=["last"])
    assert sum(len(table.rows) for table in tables) == len(ROWS) and len(tables) == 8
    for table in tables:
        assert len({(row["protocol"], row["backbone"], row[AVERAGE_ROW]) for row in table.rows}) == 1
        assert table.title.startswith("Numbers · ")
    assert [table.captions[-1] == "last" for table in tables] == [False] * 7 + [True]
