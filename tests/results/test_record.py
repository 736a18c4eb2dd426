"""What is written down is read back as it was, and nothing else is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from clipfit_cli.config import ModelConfig, Recipe, TrainingConfig
from clipfit_cli.errors import ResultsError
from clipfit_cli.results.keys import TestIdentity, key_of_test, sha256_of, training_key
from clipfit_cli.results.record import SCHEMA_VERSION, OldRecordError, Run, Test, from_json, to_json
from tests.results.result_examples import SPLITS, make_config, make_run, make_test, training_of, zero_shot_run

SOURCE = Path("runs") / "dtd" / "record.json"
CONFIG = training_of(make_config())
CHOSEN: dict[str, Any] = {
    "selected_on": "val",
    "num_val_images": 96,
    "chosen": {"alpha": 2.5, "views": None, "sampler": "one_class"},
    "tried": {"alpha": [0.5, 2.5], "accuracy_pct": [12.5, 100 / 3]},
}
RECORDS = [
    make_run(),
    make_run(config=replace(CONFIG, tune=True, val_shots=4, origin="another-package 1.2"), **CHOSEN),
    zero_shot_run(),
    make_run(notes=(), scored_adapter=True),
    make_test(),
    make_test(subset="new"),
]


def key_of(config: TrainingConfig, **changes: Any) -> str:
    hashes = {"split_sha256": SPLITS["dtd"], "images_sha256": "i" * 64, "weights_sha256": "a" * 64}
    return training_key(config, **{**hashes, **changes})


def read(text: str, kind: Any = Run) -> Run | Test:
    found: Run | Test = from_json(text.encode(), SOURCE, kind)
    return found


def sealed(plain: dict[str, Any]) -> str:
    """Return a record with a checksum that fits, as somebody would write who knows how."""
    plain = {name: value for name, value in plain.items() if name != "checksum"}
    return json.dumps({**plain, "checksum": sha256_of(plain)})


@pytest.mark.parametrize("record", RECORDS)
def test_every_field_survives_the_round_trip(record: Run | Test) -> None:
    text = to_json(record)
    again = read(text, type(record))
    assert again == record
    assert to_json(again) == text
    assert type(again.notes) is tuple


def test_json_is_stable_indented_and_full_precision() -> None:
    text = to_json(make_test())
    plain = json.loads(text)
    assert list(plain) == [*(field.name for field in fields(Test)), "checksum"]
    assert plain["accuracy_pct"] == 100 / 3
    assert text.startswith('{\n  "schema_version": 5,\n') and text.endswith("}\n")
    settings = list(json.loads(to_json(make_run()))["config"]["settings"])
    assert settings == list(make_config().settings), "the order of a fresh run and of one that was read is one"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_not_recorded(bad: float) -> None:
    for record in (make_test(accuracy_pct=bad, key="0" * 64), make_run(final_loss=bad, key="0" * 64)):
        with pytest.raises(ResultsError, match="cannot be recorded"):
            to_json(record)
    with pytest.raises(ResultsError, match="cannot be identified"):
        key_of(replace(CONFIG, settings={"beta": bad}))


def test_what_could_not_be_read_back_is_not_written() -> None:
    with pytest.raises(ResultsError, match="cannot be recorded"):
        to_json(make_run(steps=1.5))
    with pytest.raises(ResultsError, match="cannot be recorded"):
        to_json(make_test(accuracy_pct=250.0))
    with pytest.raises(ResultsError, match="cannot be recorded"):
        to_json(make_run(device="\udc80"))


@pytest.mark.parametrize("text", ["", "{", "[1, 2", "\x00", '{"schema_version": 1,}', "[" * 100_000, "[]", "3", "null"])
def test_what_is_no_record_names_the_file(text: str) -> None:
    with pytest.raises(ResultsError, match=r"record\.json is damaged"):
        read(text)


def test_one_changed_letter_is_noticed() -> None:
    text = to_json(make_run())
    for at in range(0, len(text), 37):
        changed = text[:at] + chr(ord(text[at]) ^ 1) + text[at + 1 :]
        if changed.split() != text.split():
            with pytest.raises(ResultsError):
                read(changed)


EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "another seed": lambda plain: plain["config"].update(seed=2),
    "another weight": lambda plain: plain.update(weights_sha256="b" * 64),
    "other images": lambda plain: plain.update(images_sha256="k" * 64),
    "a field less": lambda plain: plain.pop("steps"),
    "a field more": lambda plain: plain.update(extra=1),
    "a text for a number": lambda plain: plain.update(steps="532"),
    "a truth for a number": lambda plain: plain.update(steps=True),
    "fewer than no steps": lambda plain: plain.update(steps=-1),
    "no number": lambda plain: plain.update(train_time_s=None),
    "an unknown word": lambda plain: plain.update(activation="relu"),
    "no list": lambda plain: plain.update(notes="a note"),
    "an impossible rate": lambda plain: plain["config"]["stages"][0].update(lr=-0.1),
    "an unknown mode": lambda plain: plain["config"]["model"].update(bn="off"),
    "an unknown half": lambda plain: plain["config"].update(subset="old"),
    "an unknown optimiser": lambda plain: plain["config"]["stages"][0].update(optimiser="lion"),
    "impossible shares of an area": lambda plain: plain["config"]["stages"][0].update(crop_scale=[0.9, 0.1]),
    "selected on something else": lambda plain: plain.update(selected_on="test"),
    "tries that are no lists": lambda plain: plain.update(tried={"alpha": 2.5}),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edited_record_is_refused_even_with_a_checksum_that_fits(edit: Callable[[dict[str, Any]], object]) -> None:
    plain = json.loads(to_json(make_run()))
    edit(plain)
    with pytest.raises(ResultsError, match="its checksum does not fit"):
        read(json.dumps(plain))
    with pytest.raises(ResultsError, match=r"record\.json (is damaged|does not belong to its key)"):
        read(sealed(plain))


@pytest.mark.parametrize("number", ["1e999", "NaN", "-Infinity"])
def test_a_number_that_is_none_is_refused_with_the_name_of_the_file(number: str) -> None:
    text = to_json(make_run())
    with pytest.raises(ResultsError, match=r"record\.json is damaged"):
        read(text.replace('"peak_memory_mib": ', f'"peak_memory_mib": {number}, "was": '))


def test_an_accuracy_above_100_is_refused() -> None:
    plain = json.loads(to_json(make_test()))
    with pytest.raises(ResultsError, match="is damaged"):
        read(sealed({**plain, "accuracy_pct": 250.0}), Test)


def test_a_record_of_another_kind_is_refused() -> None:
    with pytest.raises(ResultsError):
        read(to_json(make_run()), Test)


def test_records_of_other_schemas_are_named_not_called_damaged() -> None:
    plain = json.loads(to_json(make_run()))
    newer = SCHEMA_VERSION + 1
    with pytest.raises(ResultsError, match=rf"newer clipfit \(schema {newer}; this one reads {SCHEMA_VERSION}\)"):
        read(json.dumps({**plain, "schema_version": newer, "more": 1}))
    for old in range(1, SCHEMA_VERSION):
        with pytest.raises(OldRecordError, match=r"made before 0\.3\.0") as caught:
            read(json.dumps({"schema_version": old, "key": "x"}))
        assert "damaged" not in str(caught.value)


OLD = Recipe(epochs=7, batch_size=5, lr=0.003)
SCHEDULES = {
    "optimiser": replace(OLD, optimiser="adamw"),
    "lr": replace(OLD, lr=0.004),
    "momentum": replace(OLD, momentum=0.8),
    "weight_decay": replace(OLD, weight_decay=0.0),
    "eps": replace(OLD, eps=1e-4),
    "betas": replace(OLD, betas=(0.9, 0.98)),
    "epochs": replace(OLD, epochs=8),
    "steps": replace(OLD, steps=0),
    "batch_size": replace(OLD, batch_size=6),
    "all images at once": replace(OLD, batch_size=None),
    "drop_last": replace(OLD, drop_last=False),
    "sampler": replace(OLD, sampler="one_class"),
    "decay": replace(OLD, decay="step"),
    "decay_period": replace(OLD, decay_period=7),
    "min_lr": replace(OLD, min_lr=1e-5),
    "warmup_epochs": replace(OLD, warmup_epochs=2),
    "warmup_lr": replace(OLD, warmup_lr=2e-5),
    "crop_scale": replace(OLD, crop_scale=(0.5, 1.0)),
    "no crops": replace(OLD, crop_scale=None),
    "views": replace(OLD, views=10),
    "view_use": replace(OLD, view_use="mean"),
}

CHANGES: dict[str, dict[str, Any]] = {
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
    "no stage": {"stages": ()},
    "two stages": {"stages": (OLD, OLD)},
    **{name: {"stages": (schedule,)} for name, schedule in SCHEDULES.items()},
    "precision": {"precision": "bf16"},
    "templates": {"templates": ("a {}.",)},
    "order of templates": {"templates": ("a {}.", "the {}.")},
    "reference_templates": {"reference_templates": True},
    "val_shots": {"val_shots": 4},
    "tune": {"tune": True},
    "origin": {"origin": "another-package 1.2"},
    "another version of it": {"origin": "another-package 1.3"},
}


def test_whatever_moves_a_number_changes_the_key() -> None:
    keys = {"unchanged": key_of(CONFIG)}
    for name, changes in CHANGES.items():
        keys[name] = key_of(replace(CONFIG, **changes))
    hashes = ("split_sha256", "images_sha256", "weights_sha256", "adapter_sha256")
    keys |= {name: key_of(CONFIG, **{name: "b" * 64}) for name in hashes}
    keys["version of the numbers"] = key_of(CONFIG, numbers_version=99)
    assert len(set(keys.values())) == len(keys)
    assert all(len(key) == 64 and set(key) <= set("0123456789abcdef") for key in keys.values())


def test_a_key_stays_what_it_was() -> None:
    """Another key makes every finished run again; where numbers move, `NUMBERS_VERSION` says so."""
    assert key_of(CONFIG, numbers_version=3) == "c2a3b4e92ee84d81d5ad9f03f15b99d60c31665357c342a6893b4106360dd29d"


def test_every_field_of_the_configuration_was_changed_above() -> None:
    changed = {name for changes in CHANGES.values() for name in changes}
    assert changed | {"dataset"} == {field.name for field in fields(TrainingConfig)}
    assert {field.name for field in fields(Recipe)} <= set(CHANGES)
    assert {field.name for field in fields(ModelConfig)} <= set(CHANGES)


def test_what_moves_no_number_does_not_change_the_key() -> None:
    key = key_of(CONFIG)
    assert key_of(replace(CONFIG, settings=dict(reversed(CONFIG.settings.items())))) == key
    assert key_of(replace(CONFIG, dataset="a copy of it")) == key, "lists and images tell a data set"
    paths = ("weights.pt", "/data/weights.pt", "C:\\weights")
    files = [replace(CONFIG, model=ModelConfig("ViT-B-16", path)) for path in paths]
    assert len({key_of(config) for config in files}) == 1
    assert key_of(files[0]) != key
    folders = [replace(CONFIG, model=ModelConfig(path, path)) for path in ("export", "./export", "hf-hub:org/export")]
    assert len({key_of(config) for config in folders}) == 1
    assert key_of(folders[0]) not in (key, key_of(files[0]))


def test_whatever_moves_a_test_changes_its_key() -> None:
    same: dict[str, Any] = {
        "subset": "base",
        "templates": ("a {}.",),
        "precision": "fp32",
        "split_sha256": "s",
        "images_sha256": "i",
        "transform": "identity",
        "interpolation": 1.0,
        "numbers_version": 3,
    }
    other: dict[str, Any] = {
        **dict.fromkeys(("subset", "precision", "split_sha256", "images_sha256", "transform"), "other"),
        "templates": ("the {}.",),
        "interpolation": 0.5,
        "numbers_version": 4,
    }
    assert same.keys() == other.keys()
    keys = {key_of_test(training, TestIdentity(**same)) for training in ("t", "u")}
    keys |= {key_of_test("t", TestIdentity(**{**same, name: value})) for name, value in other.items()}
    assert len(keys) == 2 + len(other)


def test_a_setting_that_is_no_value_cannot_be_identified() -> None:
    for bad in (float("nan"), {1: float("inf")}):
        with pytest.raises(ResultsError, match="cannot be identified"):
            key_of(replace(CONFIG, settings={"beta": bad}))
