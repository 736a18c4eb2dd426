from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from clipfit_cli.config import NUMBERS_VERSION, ModelConfig, RunConfig, ScheduleConfig, TestSet
from clipfit_cli.errors import ResultsError
from clipfit_cli.results import record as record_module
from clipfit_cli.results.record import RunRecord, from_json, run_key, to_json
from tests.results.result_examples import SPLITS, make_config, make_record, zero_shot_record

SOURCE = Path("runs") / "dtd" / "record.json"


def key_of(config: RunConfig, **changes: Any) -> str:
    return run_key(config, **{"split_sha256": SPLITS, "weights_sha256": "a" * 64, **changes})


@pytest.mark.parametrize("record", [make_record(), zero_shot_record(), make_record(notes=())])
def test_every_field_survives_the_round_trip(record: RunRecord) -> None:
    text = to_json(record)
    again = from_json(text, SOURCE)
    assert again == record
    assert to_json(again) == text
    assert type(again.config.tests) is tuple
    assert type(again.notes) is tuple


def test_json_is_stable_indented_and_full_precision() -> None:
    text = to_json(make_record())
    plain = json.loads(text)
    assert list(plain) == [f.name for f in fields(RunRecord)]
    assert list(plain["versions"]) == ["clipfit", "torch"]
    assert plain["tests"][0]["accuracy_pct"] == 100 / 3
    assert text.startswith('{\n  "schema_version": 2,\n')
    assert text.endswith("}\n")
    assert to_json(make_record(versions={"clipfit": "0.1.0", "torch": "2.9.0"})) == text


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_not_recorded(bad: float) -> None:
    damaged = replace(make_record().tests[1], accuracy_pct=bad)
    with pytest.raises(ResultsError, match=r"tests\[0\]\.accuracy_pct is .*not a finite number"):
        to_json(make_record(tests=(damaged,)))
    with pytest.raises(ResultsError, match="final_loss"):
        to_json(make_record(final_loss=bad))
    with pytest.raises(ResultsError, match="beta"):
        to_json(make_record(config=make_config(settings={"beta": bad})))


def test_what_could_not_be_read_back_is_not_written() -> None:
    with pytest.raises(ResultsError, match="steps must be of type int"):
        to_json(make_record(steps=1.5))


@pytest.mark.parametrize("text", ["", "{", "[1, 2", "\x00", '{"schema_version": 1,}', "[" * 100_000])
def test_damaged_json_names_the_file(text: str) -> None:
    with pytest.raises(ResultsError, match=r"record\.json is not valid JSON"):
        from_json(text, SOURCE)


@pytest.mark.parametrize("name", [f.name for f in fields(RunRecord) if f.name != "schema_version"])
def test_missing_fields_are_named(name: str) -> None:
    plain = json.loads(to_json(make_record()))
    del plain[name]
    with pytest.raises(ResultsError, match=rf"record\.json is damaged: record lacks {name}"):
        from_json(json.dumps(plain), SOURCE)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("steps", "532", "steps must be of type int"),
        ("steps", True, "steps must be of type int"),
        ("steps", None, "steps must be of type int"),
        ("final_loss", "0.7", "final_loss must be of type float"),
        ("train_time_s", False, "train_time_s must be of type float"),
        ("activation", "relu", "activation must be one of quickgelu, gelu"),
        ("key", 5, "key must be of type str"),
        ("notes", "a note", "notes must be a list"),
        ("notes", [1], r"notes\[0\] must be of type str"),
        ("versions", ["torch"], "versions must be an object"),
        ("versions", {"torch": 2}, "versions.torch must be of type str"),
        ("tests", [3], r"tests\[0\] must be an object"),
        ("config", None, "config must be an object"),
        ("extra", 1, "unknown key 'extra'"),
    ],
)
def test_wrong_types_are_named(name: str, value: object, message: str) -> None:
    plain = json.loads(to_json(make_record()))
    plain[name] = value
    with pytest.raises(ResultsError, match=message) as caught:
        from_json(json.dumps(plain), SOURCE)
    assert str(SOURCE) in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("config", "seed"), 1.5, "config.seed"),
        (("config", "shots"), -1, "shots must be at least 1"),
        (("config", "subset"), "old", "config.subset must be one of all, base, new"),
        (("config", "schedule", "lr"), -0.1, "learning rate must be a positive number"),
        (("config", "model", "bn"), "off", "config.model.bn must be one of"),
        (("config", "model", "width"), 5, "unknown key 'width'"),
        (("config", "tests"), [], "at least one test set"),
    ],
)
def test_damage_deep_inside_is_named(path: tuple[str, ...], value: object, message: str) -> None:
    plain = json.loads(to_json(make_record()))
    place = plain
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    with pytest.raises(ResultsError, match=message):
        from_json(json.dumps(plain), SOURCE)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_not_read(number: str) -> None:
    text = to_json(make_record())
    for good in ("31.25", "8.0"):
        assert good in text
        with pytest.raises(ResultsError, match="not a finite number"):
            from_json(text.replace(good, number), SOURCE)


def test_records_of_other_schemas_are_refused() -> None:
    plain = json.loads(to_json(make_record()))
    with pytest.raises(ResultsError, match=r"newer clipfit \(schema 3; this one reads 2\)"):
        from_json(json.dumps({**plain, "schema_version": 3, "more": 1}), SOURCE)
    for other in (0, "1", None, [1]):
        with pytest.raises(ResultsError, match="not a run record of schema 2"):
            from_json(json.dumps({**plain, "schema_version": other}), SOURCE)
    with pytest.raises(ResultsError, match="not a run record"):
        from_json("[]", SOURCE)


def test_records_of_schema_1_are_read() -> None:
    plain = json.loads(to_json(make_record(micro_batch_size=None)))
    for name in ("micro_batch_size", "compiled", "recomputed"):
        del plain[name]
    read = from_json(json.dumps({**plain, "schema_version": 1}), SOURCE)
    assert read == make_record(micro_batch_size=None)
    assert read.micro_batch_size is None and not read.compiled and not read.recomputed
    with pytest.raises(ResultsError, match="record lacks micro_batch_size, compiled, recomputed"):
        from_json(json.dumps(plain), SOURCE)


OLD = ScheduleConfig(epochs=7, batch_size=5, lr=0.003)
SCHEDULES = {
    "epochs": replace(OLD, epochs=8),
    "batch_size": replace(OLD, batch_size=6),
    "lr": replace(OLD, lr=0.004),
    "momentum": replace(OLD, momentum=0.8),
    "weight_decay": replace(OLD, weight_decay=0.0),
    "warmup_epochs": replace(OLD, warmup_epochs=2),
    "warmup_lr": replace(OLD, warmup_lr=2e-5),
}

CHANGES: dict[str, dict[str, Any]] = {
    "protocol": {"protocol": "few-shot"},
    "dataset": {"dataset": "ucf101"},
    "subset": {"subset": "all"},
    "shots": {"shots": 8},
    "all shots": {"shots": None},
    "seed": {"seed": 2},
    "method": {"method": "bitfit"},
    "a setting": {"settings": {"beta": 2.0, "text_bias": "c_proj", "image_blocks": None}},
    "one setting more": {"settings": {**make_config().settings, "regulariser": "kd"}},
    "backbone": {"model": ModelConfig("ViT-B-32", "openai")},
    "pretrained": {"model": ModelConfig("ViT-B-16", "laion2b_s34b_b88k")},
    "bn": {"model": ModelConfig("ViT-B-16", "openai", "train")},
    "no schedule": {"schedule": None},
    **{name: {"schedule": schedule} for name, schedule in SCHEDULES.items()},
    "precision": {"precision": "bf16"},
    "templates": {"templates": ("a {}.",)},
    "order of templates": {"templates": ("a {}.", "the {}.")},
    "tests": {"tests": (TestSet("dtd", "base"),)},
    "test subset": {"tests": (TestSet("dtd", "base"), TestSet("dtd", "all"))},
    "test data set": {"tests": (TestSet("dtd", "base"), TestSet("ucf101", "new"))},
}


def test_whatever_moves_a_number_changes_the_key() -> None:
    keys = {"unchanged": key_of(make_config())}
    for name, changes in CHANGES.items():
        keys[name] = key_of(make_config(**changes))
    keys["weights"] = key_of(make_config(), weights_sha256="b" * 64)
    keys["split"] = key_of(make_config(), split_sha256={**SPLITS, "dtd": "e" * 64})
    adapted = make_config(adapter="a.safetensors")
    keys["adapter"] = key_of(adapted, adapter_sha256="1" * 64)
    keys["other adapter"] = key_of(adapted, adapter_sha256="2" * 64)
    assert len(set(keys.values())) == len(keys)
    assert all(len(key) == 64 and set(key) <= set("0123456789abcdef") for key in keys.values())


def test_every_field_of_the_configuration_was_changed_above() -> None:
    changed = {name for changes in CHANGES.values() for name in changes}
    assert changed | {"adapter"} == {f.name for f in fields(RunConfig)}
    assert {f.name for f in fields(ScheduleConfig)} <= set(CHANGES)
    assert {f.name for f in fields(ModelConfig)} <= set(CHANGES)


def test_the_version_of_the_numbers_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key_of(make_config())
    monkeypatch.setattr(record_module, "NUMBERS_VERSION", NUMBERS_VERSION + 1)
    assert key_of(make_config()) != before


def test_what_moves_no_number_does_not_change_the_key() -> None:
    key = key_of(make_config())
    assert key_of(make_config(settings=dict(reversed(make_config().settings.items())))) == key
    assert key_of(make_config(tests=make_config().tests[::-1])) == key
    assert key_of(make_config(), split_sha256={"dtd": SPLITS["dtd"]}) == key
    assert key_of(make_config(), split_sha256={**SPLITS, "ucf101": "changed"}) == key
    adapters = [make_config(adapter=path) for path in ("a.safetensors", "b/c.safetensors")]
    assert len({key_of(config, adapter_sha256="1" * 64) for config in adapters}) == 1
    paths = ("weights.pt", "/data/weights.pt", "C:\\weights")
    files = [make_config(model=ModelConfig("ViT-B-16", path)) for path in paths]
    assert len({key_of(config) for config in files}) == 1
    assert key_of(files[0]) != key
    folders = [make_config(model=ModelConfig(path, path)) for path in ("export", "./export", "hf-hub:org/export")]
    assert len({key_of(config) for config in folders}) == 1
    assert key_of(folders[0]) not in (key, key_of(files[0]))


def test_a_key_needs_all_hashes() -> None:
    with pytest.raises(ValueError, match="no split hash for dtd"):
        key_of(make_config(), split_sha256={"ucf101": "u" * 64})
    with pytest.raises(ValueError, match="no split hash for food101"):
        key_of(make_config(tests=(TestSet("food101"),)))
    with pytest.raises(ValueError, match="an adapter needs its hash"):
        key_of(make_config(adapter="a.safetensors"))
    with pytest.raises(ValueError, match="a hash its adapter"):
        key_of(make_config(), adapter_sha256="1" * 64)


def test_a_setting_that_is_no_value_cannot_be_identified() -> None:
    for bad in (float("nan"), Path("x"), {1: 2}):
        with pytest.raises(ResultsError, match=r"cannot be identified: config\.settings\.beta"):
            key_of(make_config(settings={"beta": bad}))
