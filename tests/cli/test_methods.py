"""Methods on the command line: which there are, how one is trained, and what is typed for them."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import fields
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from clipfit_cli import methods
from clipfit_cli.cli.app import app
from clipfit_cli.config import Recipe
from clipfit_cli.errors import shortened
from tests.conftest import SmallWorld
from tests.runs.own_methods import MEANS, Asked, Choosing

QUICK = ["--dataset", "dtd", "--shots", "2", "--seeds", "1"]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "120"})


def ok(*arguments: str) -> Result:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.stderr
    return result


def rows_of(*arguments: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(ok(*arguments, "--json").stdout)["rows"]
    return rows


def test_methods_are_listed() -> None:
    rows = {row["method"]: row for row in csv.DictReader(io.StringIO(ok("methods", "--csv", "-").stdout))}
    assert tuple(rows) == methods.available() and {"bitfit", "clipfit", "full", "layer-norm", "zero-shot"} <= set(rows)
    assert "2409.16718" in rows["clipfit"]["source"]
    assert (rows["clipfit"]["family"], rows["clipfit"]["new_classes"]) == ("weights", "yes")
    assert ok("methods", "list", "--csv", "-").stdout == ok("methods", "--csv", "-").stdout
    shown = ok("methods").stdout
    assert all(name in shown for name in methods.available())


@pytest.mark.parametrize("name", methods.available())
def test_every_setting_and_every_value_of_a_recipe_is_shown(name: str) -> None:
    info = methods.get(name)
    rows = rows_of("methods", "show", name)
    found = {row["name"]: row for row in rows if row["part"] == "settings"}
    assert set(found) == {field.name for field in fields(info.settings)}
    assert {row["source"] for row in rows} <= {info.source, info.preset_source}
    known = {field.name for field in fields(Recipe)}
    assert {row["name"] for row in rows if row["part"] != "settings"} <= known
    for row in rows:
        if row["name"] in ("lr", "epochs") and row["part"] == "recipe":
            typed = rows_of("methods", "show", f"{name}:{row['name']}=7")
            assert [
                one for one in typed if (one["name"], one["value"], one["source"]) == (row["name"], 7, "given by hand")
            ]


def test_what_a_preset_changes_is_told() -> None:
    rows = {row["name"]: row for row in rows_of("methods", "show", "clipfit", "--dataset", "food101")}
    assert (rows["epochs"]["value"], rows["beta"]["value"]) == (10, 2.0)
    assert rows["epochs"]["source"] == rows["beta"]["source"] == methods.get("clipfit").preset_source
    assert rows["lr"]["source"] == methods.get("clipfit").source
    rows = {row["name"]: row for row in rows_of("methods", "show", "clipfit:beta=3", "--protocol", "base2new")}
    assert (rows["beta"]["value"], rows["beta"]["source"]) == (3.0, "given by hand")
    assert rows["crop_scale"]["value"] == [0.08, 1.0]
    assert "0.08-1" in ok("methods", "show", "clipfit").stdout, "as it is typed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["clipfat"], "Did you mean 'clipfit'"),
        (["clipfit,bitfit"], "show takes one method"),
        (["weights"], "show takes one method"),
        (["clipfit", "--shots", "1,2"], "one number of shots"),
        (["clipfit", "--protocol", "few-shoot"], "Did you mean 'few-shot'"),
        (["clipfit", "--dataset", "dtdd"], "Did you mean 'dtd'"),
        (["clipfit:views=x"], "views must be of type int"),
    ],
)
def test_what_cannot_be_shown(arguments: list[str], message: str) -> None:
    result = invoke("methods", "show", *arguments)
    assert result.exit_code == 2 and message in " ".join(result.stderr.split()), shortened(result.stderr)


def test_values_of_a_recipe_are_typed_behind_a_method_or_with_set(small_world: SmallWorld) -> None:
    options = [*QUICK, *small_world.options(), "--dry-run"]
    typed = ["--set", "epochs=7", "--set", "lr=0.5", "--set", "batch-size=all", "--set", "beta=3"]
    (row,) = rows_of("train", *typed, *options)
    (same,) = rows_of("train", "--method", "clipfit:epochs=7,lr=0.5,batch_size=all,beta=3", *options)
    assert row["key"] == same["key"] and (row["epochs"], row["lr"], row["batch_size"]) == (7, 0.5, None)
    assert row["settings_values"]["beta"] == 3.0 and "epochs" not in row["settings_values"]
    (twice,) = rows_of("train", *typed, "--epochs", "7", *options)
    assert twice["key"] == row["key"], "the same value, said twice"
    refused = invoke("train", *typed, "--epochs", "9", *options)
    assert refused.exit_code == 2 and "--epochs 9 and epochs=7 of clipfit" in refused.stderr
    (common,) = rows_of("train", "--epochs", "7", "--lr", "0.5", *options)
    assert (common["epochs"], common["lr"], common["batch_size"]) == (7, 0.5, 32)


def test_a_value_of_a_recipe_reaches_the_training(small_world: SmallWorld) -> None:
    ok("train", "--set", "steps=2", "--set", "crop_scale=0.5-1", "--set", "views=3", *QUICK, *small_world.options())
    (record,) = (json.loads(path.read_text()) for path in small_world.runs_dir.rglob("record.json"))
    (stage,) = record["config"]["stages"]
    assert record["steps"] == stage["steps"] == 2 and (stage["views"], stage["crop_scale"]) == (3, [0.5, 1.0])


def test_what_says_nothing_to_a_method_is_a_note(small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    Asked(recipe=lambda *_: (MEANS,)).install(monkeypatch)
    options = ["--method", "means", *QUICK, *small_world.options()]
    result = ok("train", "--epochs", "3", "--lr", "0.1", "--tune", *options)
    assert "means makes no steps, so --epochs and --lr say nothing to it" in result.stderr
    assert "means has no grid, so --tune says nothing to it" in result.stderr
    again = ok("train", *options)
    assert "nothing to it" not in again.stderr and "1 finished run taken" in again.stderr, "it was the same run"
    assert "nothing to it" not in ok("train", "--epochs", "3", "--tune", *options, "--quiet").stderr
    result = invoke("train", "--set", "lr=0.1", *options)
    assert result.exit_code == 2 and "means makes no steps, so lr says nothing to it" in result.stderr


def test_what_was_chosen_is_told(small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    Asked(Choosing, selects="always").install(monkeypatch)
    options = ["--method", "means", "--val-shots", "1", *QUICK, *small_world.options()]
    (row,) = rows_of("train", *options)
    assert (row["selected_on"], row["num_val_images"], row["chosen"]) == ("val", 4, {"turn": "0"})
    assert row["method"] == "means (val_shots=1)"


def test_a_family_is_compared_at_once(small_world: SmallWorld) -> None:
    options = ["--baseline", "weights", *QUICK, *small_world.options(), "--dry-run"]
    found = [row["method"] for row in rows_of("compare", *options)]
    assert sorted(set(found)) == sorted(found) and {"zero-shot", "clipfit", "bitfit", "full"} <= set(found)
    assert [
        row["method"]
        for row in rows_of("train", "--method", "bitfit,bitfit", *QUICK, *small_world.options(), "--dry-run")
    ] == ["bitfit"]


@pytest.mark.slow
def test_all_methods_run_under_one_protocol(small_world: SmallWorld) -> None:
    options = ["--method", "all", "--epochs", "1", "--batch-size", "4", *QUICK, *small_world.options()]
    rows = {row["method"]: row for row in rows_of("base2new", *options)}
    assert set(rows) == set(methods.available())
    for name, row in rows.items():
        info = methods.get(name)
        assert row["base_accuracy_pct"] is not None
        knows_new = info.knows_new_classes(info.settings())
        assert (row["new_accuracy_pct"] is not None) == (row["harmonic_mean_pct"] is not None) == knows_new
        assert row["selected_on"] == {"always": "val"}.get(info.selects, "none" if info.trains else None)
    again = ok("base2new", *options)
    assert f"{len(rows)} finished runs taken" in again.stderr and "–" in again.stdout
    tuned = rows_of("base2new", *options, "--tune", "--val-shots", "1")
    assert {row["selected_on"] for row in tuned} >= {"val"}
    for row in tuned:
        name = row["method"].split()[0]
        assert (row["selected_on"] == "val") == (methods.get(name).selects != "never")
