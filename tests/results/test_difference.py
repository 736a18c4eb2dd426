from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from clipfit_cli.config import Recipe
from clipfit_cli.results.difference import Difference, differences
from clipfit_cli.results.predictions import to_bytes
from clipfit_cli.results.record import Run, Test
from clipfit_cli.results.select import Stored
from tests.results.finished_runs import made_test, predictions_of_seed
from tests.results.result_examples import make_config, make_run, training_of


def stored(folder: Path, run: Run, *tests: tuple[Test, dict[str, bytes]]) -> Stored:
    (folder / "tests").mkdir(parents=True)
    for _, files in tests:
        for name, content in files.items():
            (folder / "tests" / name).write_bytes(content)
    one = Stored(folder, run)
    one.__dict__["tests"] = tuple(test for test, _ in tests)
    return one


def replace_hash(name: str) -> Run:
    changes: dict[str, Any] = {name: "1" * 64}
    return make_run(**changes)


def told(found: list[Difference]) -> dict[str, tuple[object, object, str]]:
    assert len({one.name for one in found}) == len(found)
    return {one.name: (one.first, one.second, one.effect) for one in found}


def test_the_same_run_does_not_differ(tmp_path: Path) -> None:
    run = make_run()
    one = stored(tmp_path, run, made_test(run, 1))
    assert differences(one, one) == []


def test_conditions_by_whether_they_are_in_the_key(tmp_path: Path) -> None:
    first = make_run()
    config = replace(
        first.config,
        dataset="mine",
        seed=4,
        settings={**first.config.settings, "beta": 2.0},
        stages=(replace(first.config.stages[0], lr=0.5), Recipe()),
    )
    second = make_run(
        config,
        threads=4,
        device="cpu",
        location="/else",
        versions={"torch": "2.10.0", "clipfit": "0.1.0", "numpy": "2"},
        split_sha256="0" * 64,
        final_loss=0.5,
    )
    found = told(differences(stored(tmp_path / "a", first), stored(tmp_path / "b", second)))
    assert found["seed"] == (3, 4, "another run")
    assert found["settings.beta"] == (8.0, 2.0, "another run")
    assert found["stages.1.lr"] == (0.003, 0.5, "another run")
    assert found["stages.2.lr"] == (None, 0.002, "another run")
    assert found["split_sha256"] == ("d" * 64, "0" * 64, "another run")
    assert found["dataset"] == ("dtd", "mine", "nothing")
    assert found["location"][2] == "nothing"
    assert found["threads"] == (2, 4, "last bits")
    assert found["device"][2] == "last bits"
    assert found["versions.torch"] == ("2.9.0", "2.10.0", "last bits")
    assert found["versions.numpy"] == (None, "2", "last bits")
    assert found["final_loss"][2] == "result"
    assert "versions.clipfit" not in found and "settings.text_bias" not in found


def test_everything_that_changes_the_key_is_named(tmp_path: Path) -> None:
    first = make_run()
    changes = [
        make_run(training_of(make_config(**change)))
        for change in (
            {"subset": "all"},
            {"shots": None},
            {"method": "bitfit"},
            {"precision": "bf16"},
            {"templates": ("{}",)},
            {"reference_templates": True},
            {"val_shots": 2},
            {"tune": True},
            {"origin": "pack 1"},
        )
    ]
    hashes = ("split_sha256", "images_sha256", "weights_sha256")
    changes += [replace_hash(name) for name in hashes]
    changes += [make_run(numbers_version=1), make_run(scored_adapter=True)]
    for place, second in enumerate(changes):
        assert second.key != first.key
        found = differences(stored(tmp_path / f"{place}a", first), stored(tmp_path / f"{place}b", second))
        assert "another run" in {one.effect for one in found}


def test_results_and_the_images_that_were_predicted_otherwise(tmp_path: Path) -> None:
    run = make_run()
    other = made_test(run, 1, threads=8, templates=("a {}",))
    more = made_test(run, 3, subset="new")
    found = told(differences(stored(tmp_path / "a", run, made_test(run, 1)), stored(tmp_path / "b", run, other, more)))
    assert found == {
        "dtd/base.templates": (["{} texture."], ["a {}"], "another test"),
        "dtd/base.threads": (2, 8, "last bits"),
        "dtd/new.accuracy_pct": (None, more[0].accuracy_pct, "result"),
    }
    first = made_test(run, 1)
    predictions, _ = predictions_of_seed(1)
    predicted = predictions.label.copy()
    predicted[:7] = predictions.predicted[:7]
    content = to_bytes({**vars(predictions), "predicted": predicted}, list_sha256="l" * 64)
    sha256 = hashlib.sha256(content).hexdigest()
    second = replace(first[0], predictions_sha256=sha256), {first[0].predictions_file: content}
    wrong = int((predictions.predicted[7:] != predictions.label[7:]).sum())
    one, two = stored(tmp_path / "c", run, first), stored(tmp_path / "d", run, second)
    found = told(differences(one, two))
    assert found == {"dtd/base.right_where_they_differ": (f"0 of {wrong}", f"{wrong} of {wrong}", "result")}
    surer = to_bytes(
        {**vars(predictions), "sum_squared_probabilities": predictions.sum_squared_probabilities / 2},
        list_sha256="l" * 64,
    )
    alike = replace(first[0], predictions_sha256=hashlib.sha256(surer).hexdigest()), {first[0].predictions_file: surer}
    assert differences(one, stored(tmp_path / "e", run, alike)) == [], "no image was predicted otherwise"
    other_list = to_bytes({**vars(predictions), "predicted": predicted}, list_sha256="0" * 64)
    (two.folder / "tests" / second[0].predictions_file).write_bytes(other_list)
    changed = replace(second[0], predictions_sha256=hashlib.sha256(other_list).hexdigest())
    two.__dict__["tests"] = (changed,)
    assert differences(one, two) == []


def test_what_is_said_of_the_training_is_not_said_again(tmp_path: Path) -> None:
    first, second = make_run(), make_run(threads=8)
    one = stored(tmp_path / "a", first, made_test(first, 1))
    other = stored(tmp_path / "b", second, made_test(second, 1, threads=8))
    assert told(differences(one, other)) == {"threads": (2, 8, "last bits")}
