from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from clipfit_cli.config import Recipe
from clipfit_cli.errors import ConfigError, UnknownNameError
from clipfit_cli.results.filters import (
    Filters,
    conditions_of,
    differing,
    is_typed,
    names_runs,
    parse_filters,
    parse_moment,
    parse_run,
)
from clipfit_cli.results.reader import protocols_of
from tests.results.result_examples import make_config, make_finished, make_run, make_test, training_of, zero_shot_run

RUN = make_run(training_of(make_config(stages=(Recipe(steps=0), Recipe(lr=0.01), Recipe(lr=0.02)))))


@pytest.mark.parametrize(
    ("value", "text", "expected"),
    [
        (2, "2", True),
        (2, "2.0", True),
        (2.0, "2", True),
        (0.001, "1e-3", True),
        (2, "3", False),
        (2, "two", False),
        (True, "true", True),
        (True, "1", False),
        (1, "true", False),
        (None, "none", True),
        (None, "all", True),
        (None, "0", False),
        ("none", "none", True),
        ("c_proj", "c_proj", True),
        ("8", "8.0", False),
        ((0.5, 1.0), "0.5-1", True),
        ([0.5, 1], "0.5-1", True),
        ((0.5, 1.0), "0.5", False),
        (float("inf"), "nan", False),
    ],
)
def test_a_typed_text_stands_for_a_value(value: Any, text: str, expected: bool) -> None:
    assert is_typed(value, text) == expected


@pytest.mark.parametrize(
    ("filters", "holds"),
    [
        ({}, True),
        ({"dataset": ("ucf101", "D-T_D")}, True),
        ({"dataset": ("ucf101",)}, False),
        ({"method": ("bitfit", "clipfit")}, True),
        ({"method": ("bitfit",)}, False),
        ({"shots": (16, 1)}, True),
        ({"shots": (None,)}, False),
        ({"seed": (3,)}, True),
        ({"seed": (1, 2)}, False),
        ({"settings": (("beta", "8"),)}, True),
        ({"settings": (("beta", "8"), ("text_bias", "c_fc"))}, False),
        ({"settings": (("image_blocks", "none"),)}, True),
        ({"settings": (("lr", "0.02"),)}, True),
        ({"settings": (("lr", "0.002"),)}, False),  # of the stage that makes no step
        ({"settings": (("precision", "fp32"), ("backbone", "ViT-B-16"), ("subset", "base"))}, True),
        ({"settings": (("templates", "reference"),)}, False),
        ({"settings": (("nothing", "1"),)}, False),
        ({"key": (RUN.key[:4],)}, True),
        ({"key": ("0" * 64,)}, False),
        ({"since": parse_moment("2025-02-03"), "until": parse_moment("2025-02-03", is_end=True)}, True),
        ({"since": parse_moment("2025-02-03T04:05:06Z")}, True),
        ({"since": parse_moment("2025-02-03T04:05:07")}, False),
        ({"until": parse_moment("2025-02-03T05:05:05+01:00")}, False),
        ({"until": parse_moment("2025-02-02", is_end=True)}, False),
    ],
)
def test_filters_hold(filters: dict[str, Any], holds: bool) -> None:
    assert Filters(**filters).hold(RUN) == holds


def test_a_record_without_a_date_is_in_no_span() -> None:
    run = make_run(created_at="long ago")
    assert Filters().hold(run)
    assert not Filters(since=parse_moment("1900-01-01")).hold(run)


def test_protocols_by_what_was_asked_and_of_models_as_they_are_by_what_was_tested() -> None:
    def as_it_is(*tests: tuple[str, str], **changes: Any) -> set[str]:
        run = zero_shot_run(**changes)
        return protocols_of(run, [make_test(run, dataset=name, subset=group) for name, group in tests], ())

    trained = make_finished()
    assert trained.request and trained.config.protocol == "base2new"
    evaluated = replace(trained.request, config=replace(trained.config, protocol="eval"))
    assert protocols_of(trained.run, trained.tests, (trained.request,)) == {"base2new"}
    assert protocols_of(trained.run, trained.tests, (trained.request, evaluated)) == {"base2new", "eval"}
    assert protocols_of(trained.run, trained.tests, ()) == set(), "nothing asked for it"
    assert as_it_is(("dtd", "base")) == {"eval", "base2new"}
    assert as_it_is(("dtd", "all")) == {"eval", "few-shot"}
    assert as_it_is(("ucf101", "new")) == {"eval", "xdataset"}
    scored = make_run(scored_adapter=True)
    assert protocols_of(scored, [], ()) == {"eval"}
    between = make_test(scored, dataset=scored.config.dataset, subset="base", interpolation=0.5)
    assert protocols_of(scored, [between], ()) == {"eval"}, "a point along alpha stands in no table of whole methods"


def test_settings_stand_before_the_recipe() -> None:
    run = make_run(training_of(make_config(settings={"lr": "own"})))
    assert conditions_of(run)["lr"] == ("own",)
    assert conditions_of(RUN)["lr"] == (0.01, 0.02)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dataset=dtd,method=clipfit", Filters(dataset=("dtd",), method=("clipfit",))),
        ("shots=1,all, seed=0,2", Filters(shots=(1, None), seed=(0, 2))),
        ("seed=1,seed=2", Filters(seed=(1, 2))),
        ("batch-size=32,beta=8", Filters(settings=(("batch_size", "32"), ("beta", "8")))),
        ("pretrained=/some/where,a=b=c", Filters(settings=(("pretrained", "/some/where"), ("a", "b=c")))),
        ("template=a,b", Filters(settings=(("template", "a,b"),))),
        ("since=2025-01-01", Filters(since=datetime(2025, 1, 1, tzinfo=timezone.utc))),
        ("until=2025-01-01", Filters(until=datetime(2025, 1, 1, 23, 59, 59, 999999, tzinfo=timezone.utc))),
        ("abcd", Filters(key=("abcd",))),
        ("key=abcd,protocol=eval", Filters(key=("abcd",), protocol=("eval",))),
    ],
)
def test_text_names_runs(text: str, expected: Filters) -> None:
    assert parse_run(text) == expected
    assert names_runs(text)


@pytest.mark.parametrize(
    "text",
    [
        *("nothing", "abc", "ABCD", "runs/dtd", "a b=1", "=1", "a\0b", "x" * 9999, "protocol=none", "key=xyz"),
        *("seed=", "seed=1,", "seed=-1", "seed=1.5", "seed=" + "9" * 5000, "shots=none", "beta=1,beta=2"),
        *("since=x", "since=2025-01-01,since=2025-01-02", "until=99999-01-01", "since=0001-01-01T00:00+23:00"),
    ],
)
def test_text_that_names_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_run(text)
    assert len(str(error.value)) < 500


def test_a_real_path_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("abcd", "seed=1"):
        (tmp_path / name).mkdir()
        assert not names_runs(name)
        assert parse_run(name) == Filters(folder=(Path(name),))
    (tmp_path / "abcd" / "adapter_model.safetensors").write_bytes(b"")
    assert parse_run("abcd/adapter_model.safetensors") == Filters(folder=(Path("abcd"),))


def test_an_unknown_protocol_and_a_value_that_is_missing() -> None:
    with pytest.raises(UnknownNameError, match="unknown protocol 'few_shot'. Did you mean 'few-shot'"):
        Filters(protocol=("few_shot",))
    with pytest.raises(ConfigError, match="missing behind seed="):
        parse_filters([("seed", [""])])
    with pytest.raises(ConfigError, match="no day and no time"):
        parse_moment("2025-13-01")


def test_what_differs_between_runs() -> None:
    runs = [make_run(training_of(make_config(seed=seed, shots=shots))) for seed, shots in ((1, 4), (2, None))]
    assert differing(runs) == {"shots": ["4", "all"], "seed": ["1", "2"]}
    assert differing(runs[:1]) == {}
