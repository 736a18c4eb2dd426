"""Plans that leave the machine: what is read is what was written, what would be another run is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from PIL import Image

from clipfit_cli.config import Execution, Keep, MethodChoice, ModelConfig, OwnDataSet, Request
from clipfit_cli.errors import ClipfitError, ConfigError
from clipfit_cli.protocols import base2new
from clipfit_cli.runs.plan_file import PLAN_KEY, Plan, plan_of, read_plan, to_plain
from clipfit_cli.runs.prepare import prepare
from clipfit_cli.runs.setup import Setup
from clipfit_cli.runs.worker import Worker
from tests.conftest import SMALL_ARCHITECTURE, SmallWorld
from tests.runs.test_sweep import Log


def planned(world: SmallWorld, **setup: Any) -> Plan:
    """Return a plan of two methods in a small world: three runs."""
    request = Request(
        datasets=("dtd",),
        methods=(MethodChoice("zero-shot"), MethodChoice("bitfit"), MethodChoice("clipfit", {"beta": "2"})),
        shots=(1,),
        seeds=(1,),
        epochs=1,
        model=ModelConfig(SMALL_ARCHITECTURE, str(world.weights)),
        precision="fp32",
    )
    places = {name: str(world.runs_dir / name) for name in ("runs_dir", "splits_dir")}
    made = Setup(data_root=str(world.data_root), device="cpu", threads=1, **(places | setup))
    workspace = made.workspace(print)
    return plan_of(made, [prepare(one, workspace, made.store()) for one in base2new.plan(request)], workspace)


def written(plan: Plan, folder: Path, change: Callable[[Any], object] = lambda plain: None) -> Path:
    """Return the file of a plan, changed by hand."""
    plain = to_plain(plan)
    change(plain)
    path = folder / "plan.json"
    path.write_text(json.dumps({"rows": [], PLAN_KEY: plain}))
    return path


def test_what_is_read_is_what_was_written(small_world: SmallWorld, tmp_path: Path) -> None:
    own = {
        "mine": OwnDataSet("mine", "folder", "/somewhere", ("a", "b"), all_test=True),
        "yours": OwnDataSet("yours", "wds", "http://x/{0..1}.tar", {"n1": "a"}),
    }
    plan = planned(
        small_world,
        own=own,
        image_cache=str(tmp_path / "cache"),
        image_cache_bytes=10**9,
        execution=Execution(recompute=True),
        keep=Keep(adapter=False, logits=True, tensorboard=True),
        offline=True,
        skip_damaged=True,
    )
    found = read_plan(written(plan, tmp_path))
    assert found == plan and len(found.runs) == 3
    assert [len(run.test_keys) for run in found.runs] == [2, 2, 2]
    assert found.runs[2].config.settings["beta"] == 2 and len({run.key for run in found.runs}) == 3


def test_paths_of_a_plan_hold_in_any_folder(
    small_world: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    setup = planned(small_world, runs_dir="some", splits_dir="other").setup
    assert (setup.runs_dir, setup.splits_dir) == (str(tmp_path / "some"), str(tmp_path / "other"))


def test_a_run_of_a_plan_is_made_once(small_world: SmallWorld) -> None:
    plan, log = planned(small_world), Log()
    for _ in range(2):
        worker = Worker(plan, progress=log, say=print)
        worker.take(1, waits=True)
    (record,) = worker.result.finished.values()
    assert log.events == ["begin 2/3 bitfit", "finished bitfit", "reused bitfit"]
    assert (record.run.key, tuple(test.key for test in record.tests)) == (plan.runs[1].key, plan.runs[1].test_keys)
    assert record.run.threads == 1


def new_images(world: SmallWorld) -> str:
    for path in (world.data_root / "dtd").rglob("train_*.jpg"):
        Image.new("RGB", (99, 99)).save(path)
    return "the training images of dtd"


def other_weights(world: SmallWorld) -> str:
    import torch

    state = torch.load(world.weights, weights_only=True)
    torch.save({name: tensor * 2 for name, tensor in state.items()}, world.weights)
    return "the weights"


def another_list(world: SmallWorld) -> str:
    path = next((world.data_root / "dtd").glob("*.json"))
    lists = json.loads(path.read_text())
    path.write_text(json.dumps(lists | {"train": lists["train"][::-1]}))
    return "the lists of dtd"


@pytest.mark.parametrize("change", [new_images, other_weights, another_list])
def test_a_plan_of_other_data_is_refused(change: Callable[[SmallWorld], str], small_world: SmallWorld) -> None:
    plan = planned(small_world)
    differs = change(small_world)
    with pytest.raises(ConfigError, match=f"{differs}.* differ; make the plan anew") as error:
        Worker(plan, progress=Log(), say=print).take(2)
    assert "clipfit on dtd, seed 1" in str(error.value)
    assert not list(small_world.runs_dir.rglob("record.json"))


def test_a_plan_of_other_code_is_refused(small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(small_world)
    first = msgspec.structs.replace(plan.runs[0], key="0" * 64)
    older = msgspec.structs.replace(first, made_of=first.made_of | {"the numbers of this clipfit": "1"})
    for run, differs in ((first, "what the method makes"), (older, "the numbers of this clipfit")):
        with pytest.raises(ConfigError, match=differs):
            Worker(msgspec.structs.replace(plan, runs=(run,)), progress=Log(), say=print).take(0)


def test_only_runs_that_there_are_can_be_made(small_world: SmallWorld) -> None:
    for index in (-1, 3):
        with pytest.raises(ConfigError, match=f"has 3 runs, counted from 0; there is no run {index}"):
            Worker(planned(small_world), progress=Log(), say=print).take(index)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no plan"),
        ("[" * 50_000, "is no plan"),
        ('{"rows": []}', "holds no plan"),
        ("[1]", "holds no plan"),
        ('{"plan": 3}', "holds no plan"),
        ('{"plan": {}}', "a plan of version None"),
        ('{"plan": {"plan_version": "' + "9" * 5000 + '"}}', "a plan of version"),
        ('{"plan": {"plan_version": 1}}', "is no plan: Object missing required field"),
        ('{"plan": {"plan_version": 1, "setup": {"data_root": "a", "runs_dir": "b"}}}', "splits_dir"),
        ("\udcff", "is no plan"),
    ],
)
def test_what_is_no_plan_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text, errors="surrogateescape")
    with pytest.raises(ConfigError, match=message) as error:
        read_plan(path)
    assert len(str(error.value)) < 800


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plain: plain.update(runs=[]), "length >= 1"),
        (lambda plain: plain["runs"][0].update(key="x"), "is no plan"),
        (lambda plain: plain["setup"].update(threads=0), "threads must be from 1"),
        (lambda plain: plain["setup"].update(threads=10**30), "is no plan"),
        (lambda plain: plain["runs"][1]["config"]["stages"][0].update(lr=-1), "lr must be above 0"),
        (lambda plain: plain["runs"][1]["config"].update(subset="some"), "Invalid enum value"),
        (lambda plain: plain.update(surprise=1), "unknown field"),
        (lambda plain: plain["runs"][1]["config"].update(tests=[]), "at least one test set"),
    ],
)
def test_a_plan_with_wrong_values_is_refused(
    change: Callable[[Any], object], message: str, small_world: SmallWorld, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        read_plan(written(planned(small_world), tmp_path, change))


def test_there_has_to_be_a_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.json", tmp_path / ("long" * 100)):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_plan(path)


STRANGE: tuple[Any, ...] = (
    None,
    True,
    -1,
    10**12,
    1.5,
    "",
    "x" * 3000,
    "../..",
    "cuda:99",
    [],
    {},
    [[1]],
    {"a": "b"},
    "\x00",
)


def places_in(plain: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to every value of a plan."""
    items = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    return [way for key, value in items for way in ((*above, key), *places_in(value, (*above, key)))]


def mutated(plain: Any, rng: random.Random) -> str:
    """Put something strange anywhere and say where."""
    way = rng.choice(places_in(plain))
    for key in way[:-1]:
        plain = plain[key]
    plain[way[-1]] = rng.choice(STRANGE)
    return f"{way} = {str(plain[way[-1]])[:50]}"


@pytest.mark.slow
def test_whatever_stands_in_a_plan_ends_in_words(
    small_world: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A strange value is refused, or changes no run; nothing of it is a bug's traceback."""
    monkeypatch.chdir(tmp_path)
    plan, rng, ends = planned(small_world), random.Random(0), {"made": 0, "refused": 0}
    plan = msgspec.structs.replace(plan, runs=plan.runs[1:2])
    for _ in range(600):
        plain = to_plain(plan)
        where = mutated(plain, rng)
        path = tmp_path / "plan.json"
        path.write_text(json.dumps({PLAN_KEY: plain}))
        try:
            found = read_plan(path)
            found = msgspec.structs.replace(
                found, setup=replace(found.setup, runs_dir=str(small_world.runs_dir), splits_dir=str(tmp_path / "s"))
            )
            Worker(found, progress=Log(), say=print).take(0, waits=True)
            ends["made"] += 1
        except (ClipfitError, OSError):
            ends["refused"] += 1
        except Exception as error:
            raise AssertionError(where) from error
    assert min(ends.values()) > 5, ends
