"""The grid around a method's defaults: which points there are, what each is worth, and which are on the front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from clipfit_cli import methods
from clipfit_cli.config import MethodChoice, Request, RunConfig
from clipfit_cli.data.shifts import Shift
from clipfit_cli.errors import ConfigError, UnknownNameError
from clipfit_cli.models.architectures import build_on_meta
from clipfit_cli.protocols import sensitivity
from clipfit_cli.protocols.sensitivity_grid import DEFAULTS, Grid, Point, grid, plan
from clipfit_cli.protocols.series import series_of
from clipfit_cli.reports.figures import Look, own_style
from clipfit_cli.reports.plot_front import draw, front
from clipfit_cli.reports.statistics import mean_difference
from clipfit_cli.reports.tables import Table, to_csv
from clipfit_cli.results.predictions import Predictions
from clipfit_cli.results.record import Finished, Run, Test
from clipfit_cli.results.summary import harmonic_mean
from tests.results.result_examples import make_finished

TINY, RESNET = build_on_meta("clipfit-tiny"), build_on_meta("RN50")
UNTRAINED = MethodChoice("zero-shot")
PARAMETERS = {"defaults": 100, "tuned_pct=1": 1, "tuned_pct=30": 30, "text_biases=all": 200, "text_biases=none": 90}


def request_of(*datasets: str, method: str = "clipfit", seeds: Sequence[int] = (1, 2, 3), **overrides: str) -> Request:
    return Request(datasets or ("dtd",), (MethodChoice(method, overrides),), seeds=tuple(seeds))


def levels(found: Grid) -> list[str]:
    return [point.level for point in found.points]


# which points


def test_the_built_in_pair_has_at_most_24_points() -> None:
    found = grid(request_of("textures"), TINY)
    assert found.points[0] == Point("", DEFAULTS, MethodChoice("clipfit"))
    assert len(found.points) == len(set(levels(found))) == 20 < 24
    assert found.left_out == ("left out text_blocks=every-2: on this model it trains what another level trains",)
    assert "beta=8" not in levels(found), "on textures that is the method by itself"
    assert {point.factor for point in found.points[1:]} == {"biases", "layer-norms", "fraction", "beta"}


def test_what_is_asked_for_varies_around_what_was_given() -> None:
    found = grid(request_of("dtd", regulariser="none"), TINY, ["beta", "fraction"])
    assert levels(found)[:3] == [DEFAULTS, "tuned_pct=1", "tuned_pct=3"] and "beta=0" in levels(found)
    assert all(point.choice.overrides["regulariser"] == "none" for point in found.points)
    other = grid(request_of("eurosat", "dtd"), TINY, ["beta"])
    assert {"beta=2", "beta=8"} <= set(levels(other)), "each is the default of one protocol or data set, not of all"


def test_what_a_tower_lacks_is_said_before_anything_runs() -> None:
    found = grid(request_of("dtd"), RESNET, ["layer-norms"])
    told = "\n".join(found.left_out)
    assert levels(found) == [DEFAULTS]
    for level in ("image_layer_norms=blocks", "image_layer_norms=after", "layer_norm_parts=gains"):
        assert f"left out {level}: the image tower is a ResNet" in told
    assert "left out image_layer_norms=none: on this model it trains what another level trains" in told


def test_what_would_train_nothing_is_no_point() -> None:
    found = grid(request_of("dtd"), RESNET, ["biases"])
    assert "text_biases=all" in levels(found) and "text_biases=none" not in levels(found)
    assert "left out text_biases=none: on this model it trains nothing" in found.left_out


def test_what_cannot_be_asked() -> None:
    with pytest.raises(UnknownNameError, match="unknown factor of clipfit 'betas'. Did you mean 'beta'"):
        grid(request_of(), TINY, ["betas"])
    with pytest.raises(ConfigError, match=r"bitfit says not what of it can be varied; methods that do: clipfit$"):
        grid(request_of(method="bitfit"), TINY)


def test_every_point_is_run_and_the_model_as_it_is_once() -> None:
    request, found = request_of("dtd"), grid(request_of("dtd"), TINY, ["fraction"])
    runs = plan("base2new", request, found.points, UNTRAINED)
    assert [one.method for one in runs].count("zero-shot") == 1 and len(runs) == 1 + 5 * 3
    shares = [one.settings.get("tuned_pct") for one in runs if one.seed == 1]
    assert shares == [None, 1.0, 3.0, 10.0, 30.0]


# what each is worth


POINTS = (
    Point("", DEFAULTS, MethodChoice("clipfit")),
    Point("fraction", "tuned_pct=1", MethodChoice("clipfit", {"tuned_pct": "1"})),
    Point("fraction", "tuned_pct=30", MethodChoice("clipfit", {"tuned_pct": "30"})),
    Point("biases", "text_biases=all", MethodChoice("clipfit", {"text_biases": "all"})),
    Point("biases", "text_biases=none", MethodChoice("clipfit", {"text_biases": "none"})),
)


def level_of(config: RunConfig) -> str:
    if config.method == "zero-shot":
        return "zero-shot"
    if "tuned_pct" in config.settings:
        return f"tuned_pct={config.settings['tuned_pct']:g}"
    which = config.settings["text_biases"]
    return DEFAULTS if which == "c_proj" else f"text_biases={which}"


def finished(protocol: str, scores: Mapping[str, Sequence[float]], *datasets: str) -> list[Finished]:
    """Runs of all points: accuracies by seed; of base to new, new is 10 points less than base."""
    seeds = range(1, max(map(len, scores.values())) + 1)
    found = []
    for config in plan(protocol, request_of(*datasets, seeds=list(seeds)), POINTS, UNTRAINED):
        level = level_of(config)
        accuracy = scores[level][config.seed - 1 if config.stages else 0]
        count = PARAMETERS.get(level, 0)
        one = make_finished(replace(config, precision="fp32"), {"trainable_parameters": count} if config.stages else {})
        tests = [
            replace(test, accuracy_pct=accuracy - 10 * (test.subset == "new"), num_classes=3) for test in one.tests
        ]
        found.append(replace(one, tests=tuple(tests)))
    return found


SCORES = {
    "zero-shot": [50.0],
    "defaults": [60.0, 62.0, 61.0],
    "tuned_pct=1": [49.0, 52.0, 46.0],
    "tuned_pct=30": [60.0, 63.0, 63.0],
    "text_biases=all": [61.0, 62.0, 63.0],
    "text_biases=none": [60.0, 62.0, 61.0],
}


def rows_of(table: Table, **wanted: Any) -> dict[str, Any]:
    return {
        str(row["level"]): row for row in table.rows if all(row.get(name) == value for name, value in wanted.items())
    }


def test_effects_are_paired_over_seeds() -> None:
    table, factors = sensitivity.summarise("few-shot", finished("few-shot", SCORES), points=POINTS, common={})
    rows = rows_of(table)
    assert list(rows) == ["zero-shot", *(point.level for point in POINTS)]
    assert rows["defaults"].get("effect_pct") is None and rows["zero-shot"]["effect_pct"] == -11
    for level in ("tuned_pct=30", "text_biases=all"):
        pairs = zip(SCORES[level], SCORES["defaults"], strict=True)
        expected = mean_difference([{seed: own - base for seed, (own, base) in enumerate(pairs)}])
        row = rows[level]
        assert row["effect_pct"] == pytest.approx(expected.mean)
        assert row["effect_ci95_low_pct"] == pytest.approx(expected.low)
        assert row["effect_ci95_high_pct"] == pytest.approx(expected.high)
        assert row["effect_p"] == pytest.approx(expected.p) and row["effect_method"] == "t over seeds"
    spans = {str(row["factor"]): row for row in factors.rows}
    assert {name: (row["worst"], row["best"]) for name, row in spans.items()} == {
        "fraction": ("tuned_pct=1", "tuned_pct=30"),
        "biases": ("defaults", "text_biases=all"),
    }
    pairs = zip(SCORES["tuned_pct=30"], SCORES["tuned_pct=1"], strict=True)
    expected = mean_difference([{seed: own - other for seed, (own, other) in enumerate(pairs)}])
    span = spans["fraction"]
    assert (span["span_pct"], span["span_ci95_low_pct"]) == pytest.approx((expected.mean, expected.low))
    assert span["num_levels"] == 3


def test_the_front_is_what_no_other_row_beats_with_as_few_numbers() -> None:
    table, _ = sensitivity.summarise("few-shot", finished("few-shot", SCORES), points=POINTS, common={})
    assert {level: row["front"] for level, row in rows_of(table).items()} == {
        "zero-shot": "yes",
        "tuned_pct=1": "no",  # below zero-shot, which trains nothing
        "tuned_pct=30": "yes",
        "text_biases=none": "no",  # 61, where 30 numbers give 62
        "defaults": "no",
        "text_biases=all": "no",  # 62 as well, with more
    }


def test_of_rows_with_as_many_numbers_the_better_is_on_the_front() -> None:
    beta = Point("beta", "beta=0", MethodChoice("clipfit", {"beta": "0"}))
    points = (*POINTS[:1], beta)
    records = []
    for config in plan("few-shot", request_of(seeds=[1]), points, UNTRAINED):
        one = make_finished(replace(config, precision="fp32"), {"trainable_parameters": 100} if config.stages else {})
        accuracy = {"zero-shot": 50.0, "clipfit": 61.0 + (config.settings.get("beta") == 0)}[config.method]
        records.append(replace(one, tests=tuple(replace(test, accuracy_pct=accuracy) for test in one.tests)))
    table, _ = sensitivity.summarise("few-shot", records, points=points, common={})
    rows = {level: (row["front"], row["front_mark"]) for level, row in rows_of(table).items()}
    assert rows == {"zero-shot": ("yes", "◂"), "defaults": ("no", ""), "beta=0": ("yes", "◂")}


def read_of(right: Mapping[str, Mapping[str, Sequence[int]]]) -> Any:
    def read(run: Run, test: Test) -> Predictions:
        config: Any = run.config
        found = np.array(right[level_of(config)][test.subset], np.int32)
        nothing = np.zeros(len(found))
        return Predictions(np.zeros(len(found), np.int32), 1 - found, nothing, nothing, nothing)

    return read


RIGHT = {
    "zero-shot": {"base": [1, 0, 0, 0, 1], "new": [1, 0, 0, 0]},
    "defaults": {"base": [1, 1, 0, 1, 1], "new": [1, 1, 0, 0]},
    "tuned_pct=1": {"base": [1, 0, 0, 1, 0], "new": [0, 0, 1, 0]},
    "tuned_pct=30": {"base": [1, 1, 0, 1, 1], "new": [1, 1, 0, 0]},
    "text_biases=all": {"base": [1, 1, 1, 1, 1], "new": [1, 1, 0, 0]},
    "text_biases=none": {"base": [0, 1, 1, 1, 1], "new": [1, 1, 0, 1]},
}


def test_one_seed_is_paired_over_test_images() -> None:
    records = []
    for one in finished("base2new", {level: [50.0] for level in RIGHT}):
        tests = [
            replace(test, accuracy_pct=100 * float(np.mean(RIGHT[level_of(one.config)][test.subset])))
            for test in one.tests
        ]
        records.append(replace(one, tests=tuple(tests)))
    table, factors = sensitivity.summarise("base2new", records, points=POINTS, common={}, predictions=read_of(RIGHT))
    rows = rows_of(table)
    ours, theirs = RIGHT["tuned_pct=1"], RIGHT["defaults"]
    means = [(np.mean(ours[half]), np.mean(theirs[half])) for half in ("base", "new")]
    base, new = (float(a + b) / 2 for a, b in means)
    slopes = {"base": 2 * (new / (base + new)) ** 2, "new": 2 * (base / (base + new)) ** 2}
    variance = 0.0
    for half in slopes:
        votes = np.append(np.array(ours[half]) - np.array(theirs[half]), [1, -1])  # as if two images more differed
        variance += (slopes[half] / len(ours[half])) ** 2 * len(votes) * float(np.var(votes))
    effect = 100 * (
        harmonic_mean(*map(float, (m[0] for m in means))) - harmonic_mean(*map(float, (m[1] for m in means)))
    )
    row = rows["tuned_pct=1"]
    assert row["effect_pct"] == pytest.approx(effect)
    assert row["effect_ci95_high_pct"] - effect == pytest.approx(100 * 1.959964 * variance**0.5, rel=1e-5)
    assert row["effect_ci95_low_pct"] + row["effect_ci95_high_pct"] == pytest.approx(2 * effect)
    same = rows["tuned_pct=30"]
    assert same["effect_pct"] == 0 and same["effect_p"] == 1 and same["effect_ci95_low_pct"] < 0
    assert "with other test images; other training images, another seed, are not covered" in table.captions[0]
    assert {row["factor"] for row in factors.rows} == {"fraction", "biases"}


@pytest.mark.slow
def test_several_data_sets_have_an_average_with_its_own_front() -> None:
    table, factors = sensitivity.summarise(
        "base2new", finished("base2new", SCORES, "dtd", "eurosat"), points=POINTS, common={}, per_seed=True
    )
    average = rows_of(table, dataset="average of 2")
    assert list(average) == ["zero-shot", *(point.level for point in POINTS)]
    assert average["tuned_pct=30"]["front"] == "yes" and average["tuned_pct=30"]["effect_pct"] > 0
    assert {row["dataset"] for row in factors.rows} == {"dtd", "eurosat", "average of 2"}
    seeds = [row for row in table.rows if row["row"] == "seed"]
    assert len(seeds) == 2 * 5 * 3 and all(row["front"] is None for row in seeds)
    assert "effect_ci95_low_pct" in to_csv(table).splitlines()[0]


def test_every_row_has_the_command_that_makes_it() -> None:
    table, _ = sensitivity.summarise("few-shot", finished("few-shot", SCORES), points=POINTS, common={})
    rows = rows_of(table)
    assert "train --dataset dtd --method clipfit --set tuned_pct=30.0 --shots 16 --seeds 1,2,3" in str(
        rows["tuned_pct=30"]["command"]
    )
    assert "--set" not in str(rows["defaults"]["command"])


@pytest.mark.slow
def test_the_plot_shows_what_the_table_holds() -> None:
    table, _ = sensitivity.summarise("few-shot", finished("few-shot", SCORES), points=POINTS, common={})
    with own_style():
        figure = draw(table, Look(width_in=5.0))
    (axes,) = figure.axes
    drawn = {
        (float(line.get_xdata()[0]), float(line.get_ydata()[0])): line.get_markerfacecolor()  # type: ignore[index, arg-type]
        for line in axes.get_lines()
        if len(line.get_xdata()) == 1  # type: ignore[arg-type]
    }
    trained = [row for row in table.rows if row["trainable_parameters"]]
    assert set(drawn) == {(row["trainable_parameters"], row["accuracy_pct"]) for row in trained}
    filled = {point for point, face in drawn.items() if face != "white"}
    assert filled == {(30.0, 62.0)}
    named = {text.get_text() for text in axes.texts}
    assert named == {"zero-shot", "defaults", "tuned_pct=30"}
    assert any(np.allclose(line.get_ydata(), 50) for line in axes.get_lines()), "the model as it is"


def test_the_methods_that_have_factors() -> None:
    assert [name for name in methods.available() if methods.get(name).factors(TINY)] == ["clipfit"]


def test_retention_is_the_score_on_shifted_images_over_that_on_clean_ones() -> None:
    shifts = [Shift("blur", 3), Shift("rotation", 3)]
    scores = {"base": (80.0, 40.0, 60.0), "new": (60.0, 30.0, 40.0)}  # clean, blurred, turned
    records = []
    for config in plan("base2new", request_of("dtd", seeds=[1, 2]), POINTS[:2], UNTRAINED, shifts):
        assert [str(test.shift) for test in config.tests] == [*["identity"] * 2, *["blur:3"] * 2, *["rotation:3"] * 2]
        one = make_finished(replace(config, precision="fp32"))
        places = {"identity": 0, "blur:3": 1, "rotation:3": 2}
        tests = [
            replace(
                test,
                transform=asked.shift,
                accuracy_pct=scores[asked.subset][places[asked.shift]] / (config.seed or 1),
            )
            for asked, test in zip(config.tests, one.tests, strict=True)
        ]
        records.append(replace(one, tests=tuple(tests)))
    table, _ = sensitivity.summarise("base2new", records, points=POINTS[:2], common={})
    expected = 100 * harmonic_mean(50, 35) / harmonic_mean(80, 60)
    assert [row["retention_pct"] for row in table.rows] == pytest.approx([expected] * 3)
    assert rows_of(table)["zero-shot"]["harmonic_mean_pct"] == pytest.approx(harmonic_mean(80, 60))
    assert any("on shifted images (blur:3, rotation:3) in percent of H" in caption for caption in table.captions)
    two = rows_of(table)["defaults"]
    assert two["retention_method"] == "none: every seed gives the same" and "retention_ci95" not in two
    assert rows_of(table)["zero-shot"].get("retention_method") is None, "one value, and no predictions at hand"
    incomplete = [replace(records[0], tests=records[0].tests[:-1]), *records[1:]]
    table, _ = sensitivity.summarise("base2new", incomplete, points=POINTS[:2], common={})
    assert rows_of(table)["zero-shot"].get("retention_pct") is None and rows_of(table)["defaults"]["retention_pct"]


def test_retention_is_known_over_seeds_or_over_test_images() -> None:
    rng, shifts = np.random.default_rng(3), [Shift("blur", 3), Shift("rotation", 3)]
    right: dict[tuple[str, str, str], Any] = {}
    several = []
    for config in plan("base2new", request_of("dtd", seeds=[1, 2, 3]), POINTS[:1], UNTRAINED, shifts):
        one = make_finished(replace(config, precision="fp32"))
        tests = []
        for asked, test in zip(config.tests, one.tests, strict=True):
            counts = {"base": 300, "new": 200}
            images = rng.random(counts[asked.subset]) < (0.8 if asked.shift == "identity" else 0.5)
            right[one.run.key, asked.subset, asked.shift] = images
            accuracy = 100 * float(images.mean())
            tests.append(replace(test, transform=asked.shift, accuracy_pct=accuracy))
        several.append(replace(one, tests=tuple(tests)))

    def read(run: Run, test: Test) -> Predictions:
        found = right[run.key, test.subset, test.transform].astype(np.int32)
        nothing = np.zeros(len(found))
        return Predictions(np.zeros(len(found), np.int32), 1 - found, nothing, nothing, nothing)

    def kept(record: Finished, weights: Mapping[str, Any]) -> float:
        """Retention where images of the halves weigh differently."""
        means: dict[tuple[bool, str], list[float]] = {}
        for test in record.tests:
            images = right[record.run.key, test.subset, test.transform]
            mean = float(np.average(images, weights=weights[test.subset]))
            means.setdefault((test.transform != "identity", test.subset), []).append(mean)
        scores = [
            harmonic_mean(*(float(np.mean(means[way, half])) for half in ("base", "new"))) for way in (True, False)
        ]
        return 100 * scores[0] / scores[1]

    even = {"base": np.ones(300), "new": np.ones(200)}
    table, _ = sensitivity.summarise("base2new", several, points=POINTS[:1], common={}, predictions=read)
    expected = mean_difference([{one.config.seed: kept(one, even) for one in several[1:]}])
    row = rows_of(table)["defaults"]
    assert (row["retention_pct"], row["retention_ci95_low_pct"], row["retention_ci95_high_pct"]) == pytest.approx(
        (expected.mean, expected.low, expected.high)
    )
    assert row["retention_method"] == "t over seeds"
    table, _ = sensitivity.summarise("base2new", several[:2], points=POINTS[:1], common={}, predictions=read)
    for record, row in zip(several[:2], rows_of(table).values(), strict=True):
        variance, step = 0.0, 1e-4
        for half, ones in even.items():
            for image in range(len(ones)):
                weights = ones.copy()
                weights[image] += step
                variance += ((kept(record, {**even, half: weights}) - kept(record, even)) / step) ** 2
        reach = 1.959964 * variance**0.5
        found = [row[f"retention_ci95_{end}_pct"] - row["retention_pct"] for end in ("low", "high")]
        assert found == pytest.approx([-reach, reach], rel=1e-3)
        assert row["retention_method"] == "over test images"
        low, high = (row[f"retention_ci95_{end}_pct"] for end in ("low", "high"))
        assert row["retention_ci95"] == f"{low:.1f} to {high:.1f}"


def test_a_factor_whose_levels_are_all_alike_has_no_best() -> None:
    scores = {level: [60.0] if level != "zero-shot" else [50.0] for level in SCORES}
    _, factors = sensitivity.summarise("few-shot", finished("few-shot", scores), points=POINTS, common={})
    assert [(row["worst"], row["best"], row["span_pct"]) for row in factors.rows] == [(None, None, 0.0)] * 2


@pytest.mark.slow
def test_what_is_finished_of_an_interrupted_grid_is_shown() -> None:
    made = finished("base2new", SCORES)
    only = [one for one in made if one.config.method == "zero-shot"]
    some = [one for one in made if level_of(one.config) in ("zero-shot", "tuned_pct=1")]
    for records, expected in ((only, ["zero-shot"]), (some, ["zero-shot", "tuned_pct=1"])):
        table, factors = sensitivity.summarise("base2new", records, points=POINTS, common={})
        assert list(rows_of(table)) == expected and not factors.rows
        assert all(row.get("effect_pct") is None for row in table.rows)
        assert front(table, "svg").startswith(b"<?xml")


def test_rows_of_other_tables_are_told_apart_by_settings_that_records_leave_out() -> None:
    records = [one for one in finished("few-shot", SCORES) if level_of(one.config) in (DEFAULTS, "tuned_pct=30")]
    assert [one.label for one in series_of(records)] == ["clipfit (tuned_pct=100.0)", "clipfit (tuned_pct=30.0)"]
