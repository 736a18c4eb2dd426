"""The scripts that measure: what they compare is the same computation, and they run from end to end."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipfit_cli.models.bundle import ClipBundle
from tests.conftest import write_small_dataset

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
TINY = ["--backbone", "clipfit-tiny"]


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what imports a script by its name, as it is when it runs: its neighbours are modules, too."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def test_no_script_hides_a_module_of_python() -> None:

    assert not {path.stem for path in BENCHMARKS.glob("*.py")} & sys.stdlib_module_names


def test_reference_and_ours_have_one_loss_and_one_gradient(scripts: Any, small_clip: ClipBundle) -> None:
    step, reference = scripts("step"), scripts("reference")
    ours = step.ours(small_clip, 5)
    official = reference.Reference(small_clip, step.names_of(5), step.TEMPLATE)
    with torch.no_grad():  # away from the start, where the distillation is 0 and has no gradient
        (group,) = ours.parameters()
        for one, other in zip(group.parameters, official.parameters(), strict=True):
            one.add_(0.1 * torch.randn_like(one))
            other.copy_(one)
    images, labels = step.batch_of(small_clip, 3, 5)

    losses = step.loss_of(ours)(images, labels), official.loss(images, labels)
    for loss in losses:
        torch.autograd.backward(loss)

    torch.testing.assert_close(*losses)
    for one, other in zip(group.parameters, official.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-3)


@pytest.mark.slow
def test_reference_counts_every_shortcut(scripts: Any) -> None:
    found = scripts("step").count_all("clipfit-tiny", 8, [4, 10])

    few, many = found["steps"]
    assert many["reference"] > few["reference"] > few["without any"] > few["without trimming"] > few["ours"]
    assert few["without trimming"] > few["without packing"] > few["without shared prefix"] > few["ours"]
    assert few["without last block"] > few["ours"]
    assert found["image_tower"]["open_clip's"] > found["image_tower"]["ours"]
    assert few["reference / ours"] == few["reference"] / few["ours"]


@pytest.mark.slow
def test_step_times_and_writes(scripts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "step.json"
    scripts("step").main(
        [
            *TINY,
            *("--batch-size", "2", "--classes", "3", "--time-classes", "3", "--turns", "1"),
            *("--memory-classes", "0", "--device", "cpu", "--json", str(file)),
        ]
    )

    found = json.loads(file.read_text())
    assert {row["classes"] for row in found["seconds"]} == {3}
    assert found["seconds"][0]["reference / ours"] > 0
    assert found["commit"] and found["versions"]["torch"] == torch.__version__
    assert "no CUDA device" in capsys.readouterr().out


@pytest.mark.slow
def test_step_measures_memory_in_processes_of_their_own(scripts: Any) -> None:
    found = scripts("step").compare_memory("clipfit-tiny", 8, 200, torch.device("cpu"))

    assert found["reference"]["added_mib"] > found["ours"]["added_mib"] > 0
    assert found["reference / ours"] > 1


@pytest.mark.slow
def test_what_needs_a_gpu_runs_on_a_processor_too(scripts: Any) -> None:
    bundle = scripts("measuring").random_bundle("clipfit-tiny", torch.device("cpu"))

    found = scripts("step_on_gpu").measure_gpu(
        bundle, 2, classes=2, shots=2, epochs=2, side=64, turns=1, compiled=False
    )

    assert list(found)[-2] == "training of 4 images, 2 epochs, s"
    assert len(found) == 6 and all(value > 0 for value in found.values())


@pytest.mark.slow
def test_large_features_counts_and_times(scripts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "large_features.json"
    sizes = {"--classes": "6", "--shots": "2", "--embed-dim": "16", "--width": "24", "--steps": "2"}
    given = [word for option in sizes.items() for word in option]
    scripts("large_features").main([*given, "--methods", "tip-adapter", "prolip", "--json", str(file)])

    plain, tuned, prolip = json.loads(file.read_text())["rows"]
    assert [row["method"] for row in (plain, tuned, prolip)] == ["tip-adapter", "tip-adapter --tune", "prolip"]
    assert [part["part"] for part in plain["parts"]] == ["all at once", "test of 12"]
    assert [part["part"] for part in tuned["parts"]] == ["all at once", "search", "test of 12"]
    before, step, test = prolip["parts"]
    # 12 images: the projection and its gradient, the logits and the gradient of the features
    assert step["gflop"] == pytest.approx(2 * (2 * 12 * 24 * 16 + 2 * 12 * 16 * 6) / 1e9)
    assert (step["part"], step["times"], before["gflop"]) == ("step", 300, 0)
    assert min(step["ratio"], step["ratio of the best"], test["ratio"]) > 0
    parts_s = sum(part["times"] * part["seconds"] for part in prolip["parts"])
    assert prolip["hours"] == pytest.approx((before["features_s"] + parts_s) / 3600)
    assert prolip["hours with --tune"] == pytest.approx(49 * prolip["hours"])
    assert all(row["peak_mib"] > row["before_mib"] > 0 for row in (plain, tuned, prolip))
    assert "Memory and hours" in capsys.readouterr().out


@pytest.mark.slow
def test_every_operator_that_counts_can_be_timed_by_itself(scripts: Any) -> None:
    products = scripts("large_features").Products()
    matrix = torch.eye(4, dtype=torch.float64) + 0.1
    with products:
        torch.mm(matrix, matrix, out=torch.empty(4, 4, dtype=torch.float64))
        torch.linalg.cholesky(matrix)
        torch.linalg.pinv(matrix)
        torch.dot(matrix[0], matrix[1])
        matrix.addmm_(matrix[:, :3], matrix[:3])

    assert products.gflop == pytest.approx((2 * 64 + 64 / 3 + 23 * 64 + 2 * 4 + 2 * 4 * 3 * 4) / 1e9)
    assert products.turn()() > 0


@pytest.mark.slow
def test_end_to_end_runs(scripts: Any, tmp_path: Path) -> None:
    write_small_dataset(tmp_path, "caltech101", ["face", "leopard", "anchor", "ant"], (6, 2, 3))
    file = tmp_path / "end_to_end.json"
    scripts("end_to_end").main(
        [
            *("--data-root", str(tmp_path), "--shots", "2", "--epochs", "2", "--batch-size", "2", "--workers", "0"),
            *("--reference-epochs", "2", "--tests", "1", "--vit-backbone", "clipfit-tiny", "--vit-steps", "1"),
            *("--vit-test-images", "2", "--device", "cpu", "--json", str(file)),
        ]
    )

    found = json.loads(file.read_text())
    run = found["whole_run"]
    assert [seed["decoded_testing"] for seed in run["seeds"]] == [12, 0, 0]
    assert run["seeds"][0]["decoded_training"] == 4
    inside = run["image_forward_s"] + run["text_forward_s"] + run["backward_s"]
    assert run["outside_the_towers_s"] == pytest.approx(run["wall_s"] - inside)
    small, larger = found["loops"]
    assert small["training_images"] == 4 and small["test_images"] == 6
    assert larger["training_images"] == 2 and larger["test_images"] == 2
    assert {"first epoch", "later epoch", "first test"} < set(small) and "later test" not in small


def test_towers_are_the_package_s_own_again_afterwards(scripts: Any) -> None:
    from clipfit_cli.models import encode, text_features

    def functions() -> list[object]:
        return [
            encode.encode_image,
            encode.encode_text,
            vars(text_features)["encode_text"],
            torch.autograd.backward,
        ]

    before, measuring = functions(), scripts("measuring")
    with measuring.towers_timed(measuring.Stopwatch(torch.device("cpu"))):
        assert all(now is not then for now, then in zip(functions(), before, strict=True))

    assert functions() == before


@pytest.mark.slow
def test_profile_tells_all_phases(scripts: Any, tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    scripts("profile_step").main(
        [*TINY, "--classes", "3", "--batch-size", "2", "--steps", "2", "--device", "cpu", "--json", str(file)]
    )

    found = json.loads(file.read_text())
    phases = found["ms_per_step"]
    assert list(phases)[:-1] == list(scripts("profile_step").PHASES)
    assert sum(phases.values()) - phases["the whole step"] <= phases["the whole step"]
    assert set(found["ms_of_other_threads_per_step"]) == {"draw the crop", "cut, resize and normalise"}
    assert found["operators"][0]["ms"] >= found["operators"][1]["ms"]


@pytest.mark.slow
def test_a_checkpoint_is_timed_and_weighed(scripts: Any, tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.json"
    options = ["--classes", "3", "--images", "12", "--steps", "2", "--device", "cpu", "--json", str(file)]
    scripts("checkpoint").main([*TINY, *options, "--method", "clipfit", "--method", "full"])
    few, many = json.loads(file.read_text())["checkpoints"]
    assert (few["method"], many["method"]) == ("clipfit", "full")
    assert many["checkpoint_mb"] > 5 * few["checkpoint_mb"] > 0
    assert 0 < few["of the time at most, %"] <= 1 and few["least_interval_s"] >= 60


@pytest.mark.slow
def test_two_processes_share_a_plan(scripts: Any, tmp_path: Path) -> None:
    file = tmp_path / "two_processes.json"
    scripts("two_processes").main(["--runs", "2", "--epochs", "1", "--shots", "1", "--json", str(file)])

    found = json.loads(file.read_text())["shared_plan"]
    assert found["two / one"] == found["two_processes_s"] / found["one_process_s"] > 0


@pytest.mark.slow
def test_two_jobs_leave_the_bytes_of_one_behind(scripts: Any, tmp_path: Path) -> None:
    file = tmp_path / "jobs.json"
    scripts("jobs").main(["--seeds", "1", "--epochs", "1", "--shots", "1", "--turns", "1", "--json", str(file)])

    found = json.loads(file.read_text())["jobs"]
    assert found["two processes / one"] == found["two_processes_s"] / found["one_process_s"] > 0
    assert found["files"] >= 2 * 4, "an adapter, losses and two tests of each training"


def test_memory_behind_each_run_is_noted(scripts: Any, tmp_path: Path) -> None:
    many_runs = scripts("many_runs")
    memory = many_runs.Memory()
    memory.finished(None)
    kept = bytearray(64 * 2**20)
    kept[::4096] = bytes([1]) * len(kept[::4096])
    memory.finished(None)
    assert memory.mib[1] - memory.mib[0] > 50 and len(kept)


def test_intervals_and_verdicts_are_right_as_often_as_they_say(scripts: Any) -> None:
    """A quick look with a fixed seed; the script takes the long one."""
    coverage = scripts("coverage")
    plain = coverage.coverage(400, 10.0, 3)
    assert 93 <= plain["covered_pct"] <= 98.5
    assert coverage.coverage(400, 1.0, 3, rho=coverage.RHO)["covered_pct"] >= 88
    assert 91 <= coverage.harmonic_coverage(300, 1, 3)["covered_pct"] <= 98.5
    for rho in (0.0, coverage.RHO):
        assert coverage.false_leads(100, 4, 3, rho=rho)["ahead_pct"] <= 7
    assert 74 <= coverage.power(400, 5)["told_pct"] <= 86


@pytest.mark.slow
def test_the_sheet_of_shifts_has_every_cell_and_their_measures_rise(scripts: Any) -> None:
    shifts = scripts("shifts")
    images = shifts.crops(32, *shifts.SHOWN)
    found = shifts.sheet(images)
    assert found.size == (shifts.NAMES + 12 * shifts.CELL, shifts.TOP + len(shifts.KINDS) * shifts.CELL)
    drawn = np.asarray(found)[shifts.TOP :, shifts.NAMES :]
    cells = drawn.reshape(len(shifts.KINDS), shifts.CELL, 12, shifts.CELL, 3).swapaxes(1, 2)
    assert len({cell.tobytes() for cell in cells[:, [0, 6]].reshape(-1, shifts.CELL**2 * 3)}) == 2, "severity 0"
    assert len({cell.tobytes() for cell in cells[:, 1:6].reshape(-1, shifts.CELL**2 * 3)}) == 5 * len(shifts.KINDS)
    for name in shifts.KINDS:
        ways = [shifts.moved(images, shifts.Shift(name, severity)) for severity in (0, *shifts.SEVERITIES)]
        assert ways[0] == 0 and sorted(ways) == ways, name


def test_the_documented_sheet_is_small() -> None:
    sheet = BENCHMARKS.parent / "docs" / "shifts.jpg"
    assert sheet.stat().st_size < 400_000
