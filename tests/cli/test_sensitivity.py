"""`clipfit sensitivity` in a small world: its runs are ordinary ones, and only the numbers that are drawn move."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clipfit_cli.methods._some_numbers import num_of
from tests.cli.test_commands import invoke, ok, rows_of
from tests.conftest import SmallWorld

QUICK = ["--dataset", "dtd", "--shots", "2", "--epochs", "2", "--batch-size", "4"]
NUMBERS = 2 * 32 + 12 * 48
SHARES = (1, 3, 10, 30)


def changed(runs_dir: Path, key: str, start: dict[str, torch.Tensor]) -> set[tuple[str, int]]:
    """Return which numbers of a run's adapter are not those of the checkpoint."""
    (folder,) = (path.parent for path in runs_dir.rglob("record.json") if path.parent.name.endswith(key[:12]))
    tuned = load_file(folder / "adapter_model.safetensors")
    assert tuned.keys() <= start.keys()
    return {
        (name, place)
        for name, tensor in tuned.items()
        for place in (tensor != start[name]).nonzero().flatten().tolist()
    }


@pytest.mark.slow
def test_a_ladder_of_shares(small_world: SmallWorld, tmp_path: Path) -> None:
    words = [*QUICK, "--seeds", "1,2", "--factor", "fraction", "--protocol", "few-shot", *small_world.options()]
    made = ok("sensitivity", *words, "--csv", "-", "--shifts", "light", "--plot", str(tmp_path / "plot.png"))
    rows = {row["level"]: row for row in rows_of(made.stdout)}
    assert list(rows) == ["zero-shot", "defaults", *(f"tuned_pct={share}" for share in SHARES)]
    assert [int(rows[f"tuned_pct={share}"]["trainable_parameters"]) for share in SHARES] == [
        num_of(NUMBERS, share) for share in SHARES
    ]
    assert rows["defaults"]["trainable_parameters"] == str(NUMBERS)
    assert all(float(row["retention_pct"]) > 0 for row in rows.values())
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"
    start = torch.load(small_world.weights, weights_only=True)
    for seed in (0, 1):
        keys = [rows[f"tuned_pct={share}"]["record_keys"].split(";")[seed] for share in SHARES]
        moved = [changed(small_world.runs_dir, key, start) for key in keys]
        assert all(smaller < larger for smaller, larger in pairwise(moved))
        assert [len(one) for one in moved] == [num_of(NUMBERS, share) for share in SHARES], "all that train, no others"
    first, second = (
        changed(small_world.runs_dir, key, start) for key in rows["tuned_pct=10"]["record_keys"].split(";")
    )
    assert first != second, "each seed draws its own"

    alone = ok("train", *QUICK, "--seeds", "1,2", "--set", "tuned_pct=10", *small_world.options(), "--csv", "-")
    (row,) = rows_of(alone.stdout)
    assert row["record_keys"] == rows["tuned_pct=10"]["record_keys"] and "tuned_pct=10.0" in row["settings"]
    assert row["accuracy_pct"] == rows["tuned_pct=10"]["accuracy_pct"]
    whole = ok("train", *QUICK, "--seeds", "1,2", "--set", "tuned_pct=100", *small_world.options(), "--csv", "-")
    assert rows_of(whole.stdout)[0]["record_keys"] == rows["defaults"]["record_keys"]

    again = ok("sensitivity", *words, "--json", "--severity", "0", "--metric", "ece")
    found = json.loads(again.stdout)
    assert all(one["ece_pct"] > 0 and one["retention_pct"] is None for one in found["rows"])
    assert "clipfit on dtd" not in again.stderr, "nothing runs again"
    assert [one["factor"] for one in found["factors"]] == ["fraction"] and found["factors"][0]["num_levels"] == 5
    assert [
        one["harmonic_mean_pct"] if "harmonic_mean_pct" in one else one["accuracy_pct"] for one in found["rows"]
    ] == [float(row["accuracy_pct"]) for row in rows.values()]

    of_one = "dataset=dtd,method=clipfit,seed=1,tuned_pct=10"
    ok("export", of_one, "--runs-dir", str(small_world.runs_dir), "--out", str(tmp_path / "exported"))
    exported = load_file(tmp_path / "exported" / "open_clip_model.safetensors")
    key = rows["tuned_pct=10"]["record_keys"].split(";")[0]
    assert {
        (name, place)
        for name, tensor in exported.items()
        for place in (tensor != start[name]).flatten().nonzero().flatten().tolist()
    } == changed(small_world.runs_dir, key, start)
    scored = ok("eval", "--adapter", of_one, "--dataset", "dtd", *small_world.options()[:4], "--csv", "-")
    (tested,) = rows_of(scored.stdout)
    assert tested["record_keys"] == key


@pytest.mark.slow
def test_where_it_is_a_default_of_later_a_run_is_found_by_that_word(small_world: SmallWorld) -> None:
    ok("train", *QUICK, "--seeds", "1", *small_world.options())
    ok("train", *QUICK, "--seeds", "1", "--set", "tuned_pct=10", *small_world.options())
    runs = ["--runs-dir", str(small_world.runs_dir), "--csv", "-"]
    found = {
        text: rows_of(ok("runs", "list", "--set", f"tuned_pct={text}", *runs).stdout) for text in ("10", "default")
    }
    assert all(len(rows) == 1 for rows in found.values()) and found["10"] != found["default"]
    several = invoke("predict", "--adapter", "method=clipfit,seed=1", "x.png", "--runs-dir", str(small_world.runs_dir))
    assert several.exit_code == 2 and "tuned_pct=default" in several.stderr and "tuned_pct=10.0" in several.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shots", "1,2"], "sensitivity takes one number of --shots"),
        (["--protocol", "xdataset"], "unknown protocol"),
        (["--method", "clipfit,bitfit"], "sensitivity takes one --method"),
        (["--method", "bitfit"], "bitfit says not what of it can be varied"),
        (["--factor", "x" * 5000], "unknown factor of clipfit"),
        (["--plot", "x.txt"], "--plot x.txt is no plot by its ending"),
        (["--plot", "nowhere/x.png"], "lies in a folder that does not exist"),
        (["--metric", "loss"], "unknown metric"),
        (["--shifts", "fog"], "unknown shift 'fog'"),
        (["--set", "tuned_pct=0"], "above 0 and at most 100"),
    ],
)
def test_what_cannot_be_asked(words: list[str], message: str) -> None:
    result = invoke("sensitivity", "--dataset", "textures", "--dry-run", *words)
    assert result.exit_code == 2 and message in result.stderr and len(result.stderr) < 2000


@pytest.mark.slow
def test_the_plan_of_the_built_in_pair_is_small(tmp_path: Path) -> None:
    planned = ok("sensitivity", "--dataset", "textures", "--dry-run", "--runs-dir", str(tmp_path), "--csv", "-")
    rows = rows_of(planned.stdout)
    assert len(rows) <= 24 and {(row["shots"], row["seed"]) for row in rows} == {("4", "1"), ("0", "0")}
    real = ok("sensitivity", "--dataset", "dtd", "--dry-run", "--offline", "--runs-dir", str(tmp_path), "--csv", "-")
    trained = [row for row in rows_of(real.stdout) if row["shots"] != "0"]
    assert {(row["shots"], row["seed"]) for row in trained} == {("16", seed) for seed in "123"} and len(trained) == 63
