"""What a training moved equals what the two checkpoints say, on every kind of tower and for every method."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from open_clip import factory
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from safetensors.torch import load_file, save_file
from torch import Tensor

from clipfit_cli.adapters.export import MODEL_FILE, export
from clipfit_cli.adapters.inspect import (
    Looking,
    _cosines,
    _labels,
    changes_between,
    image_cosines,
    inspect_adapter,
    inspect_adapters,
)
from clipfit_cli.config import ModelConfig
from clipfit_cli.engine.checkpoint import CARD_FILE, WEIGHTS_FILE
from clipfit_cli.errors import CheckpointError, ConfigError, DataError, UneditedWeights
from clipfit_cli.methods.clipfit import ClipfitSettings, trained
from clipfit_cli.models.encode import encode_image
from clipfit_cli.models.load import load_bundle
from clipfit_cli.models.text_features import normalised
from clipfit_cli.reports.inspection import table_of_inspections, tables_for_people
from clipfit_cli.reports.tables import to_csv
from clipfit_cli.results.changes import Change
from clipfit_cli.runs.workspace import Workspace
from tests.adapters.saved_adapters import CLASSES, TEMPLATE, register, save_adapter, small_model
from tests.conftest import GOLDEN, SmallWorld
from tests.engine.test_golden import reference_names
from tests.kinds import ALL_KINDS, build, config_of

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


def looking(root: Path = Path("nowhere"), **options: Any) -> Looking:
    return Looking(Workspace(data_root=root, device=CPU), **{"num_images": 0, **options})


def assert_direct(changes: Sequence[Change], first: Mapping[str, Tensor], last: Mapping[str, Tensor]) -> None:
    """The changes are those of two checkpoints, computed in the plainest way, and none is left out."""
    found = {one.name: one for one in changes}
    for name, began in first.items():
        difference = (last[name].double() - began.double()).flatten()
        if name not in found:
            assert name == "logit_scale" or not difference.abs().max() > 0, name
            continue
        length, start = math.dist(last[name].double().flatten(), began.double().flatten()), float(began.double().norm())
        measures = found[name].measures
        assert measures["l2"] == pytest.approx(length, rel=1e-9)
        assert measures["relative_pct"] == (pytest.approx(100 * length / start, rel=1e-9) if start else None)
        assert measures["rms"] == pytest.approx(float(difference.square().mean().sqrt()), rel=1e-9)
        assert measures["largest"] == float(difference.abs().max())
        assert found[name].num_values == began.numel()


def test_five_official_steps_moved_what_the_two_checkpoints_say() -> None:
    golden: dict[str, Any] = torch.load(GOLDEN / "clipfit_tiny_vit.pt", weights_only=True)
    start, end = (
        CLIP(
            embed_dim=32,
            vision_cfg=CLIPVisionCfg(image_size=32, patch_size=8, width=64, layers=2, head_width=64),
            text_cfg=CLIPTextCfg(context_length=16, vocab_size=128, width=64, heads=1, layers=2),
            quick_gelu=True,
        )
        for _ in range(2)
    )
    first = golden["initial_state_dict"]
    start.load_state_dict(first)
    names = trained(start, ClipfitSettings())
    final = reference_names(golden["runs"]["fp32_teacher32_lam8_sched"]["final"])
    last = {**first, **{name: final[name] for name in names}}
    end.load_state_dict(last)
    changes = changes_between(start, end, names)
    assert {one.name for one in changes} == {*names} and all(one.squares > 0 for one in changes)
    assert_direct(changes, first, last)
    at = {one.name: (one.tower, one.block, one.kind) for one in changes}
    assert at["transformer.resblocks.1.mlp.c_proj.bias"] == ("text", 1, "bias")
    assert at["visual.ln_pre.weight"] == ("image", "before", "gain")
    assert at["visual.transformer.resblocks.0.ln_2.bias"] == ("image", 0, "shift")
    assert at["visual.ln_post.bias"] == ("image", "behind", "shift")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_saved_adapter_on_every_kind_of_tower(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the exported checkpoint, which open_clip reads."""
    config = config_of(kind, tmp_path)
    monkeypatch.setitem(factory._MODEL_CONFIGS, f"small-{kind}", config)
    torch.save(build(config).state_dict(), tmp_path / "start.pt")
    model = ModelConfig(f"small-{kind}", str(tmp_path / "start.pt"))
    save_adapter(tmp_path / "run", model, method="layer-norm" if kind == "resnet" else "clipfit")
    exported = load_file(export(tmp_path / "run", tmp_path / "out") / MODEL_FILE)
    bundle = load_bundle(model, device=CPU)
    first = {name: tensor for name, tensor in bundle.model.state_dict().items() if tensor.is_floating_point()}
    _, found = inspect_adapter(tmp_path / "run", looking())
    assert_direct(found.changes, first, exported)
    assert {one.tower for one in found.changes} == ({"text"} if kind == "resnet" else {"image", "text"})
    assert tuple(found.class_cosines) == tuple(CLASSES) and all(
        -1 <= value < 1 for value in found.class_cosines.values()
    )


@pytest.mark.parametrize(
    "method",
    ["bitfit", *(pytest.param(m, marks=pytest.mark.slow) for m in ("clip-lora", "clip-svd", "full", "prolip"))]
    + [pytest.param(m, marks=pytest.mark.slow) for m in ("skip-tuning", "two-stage")],
)
def test_every_method_by_its_merged_weights(method: str, tmp_path: Path) -> None:
    saved = save_adapter(tmp_path / "run", small_model(tmp_path, "small-vit"), method=method)
    _, found = inspect_adapter(tmp_path / "run", looking())
    merged = cast(Any, saved.adapted).merged_model().state_dict()
    assert_direct(found.changes, saved.bundle.model.state_dict(), merged)
    assert found.changes and "logit_scale" not in {one.name for one in found.changes}, (
        "a fixed temperature is not learnt"
    )
    with torch.no_grad():
        tokens = saved.bundle.tokenizer([TEMPLATE.replace("{}", name.replace("_", " ")) for name in CLASSES])
        before, after = (
            cast(Any, model).encode_text(tokens, normalize=True).double()
            for model in (saved.bundle.model, cast(Any, saved.adapted).merged_model())
        )
    expected = dict(zip(CLASSES, (before * after).sum(dim=1).tolist(), strict=True))
    assert found.class_cosines == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_statistics_of_batch_norm_that_drifted(tmp_path: Path) -> None:
    saved = save_adapter(tmp_path / "run", small_model(tmp_path, "small-resnet", bn="train"), method="bitfit")
    _, found = inspect_adapter(tmp_path / "run", looking())
    merged = cast(Any, saved.adapted).merged_model().state_dict()
    first = {name: tensor for name, tensor in saved.bundle.model.state_dict().items() if tensor.is_floating_point()}
    assert_direct(found.changes, first, merged)
    drifted = [one for one in found.changes if one.kind == "statistic"]
    assert {one.name.rpartition(".")[2] for one in drifted} == {"running_mean", "running_var"}


def test_what_trained_and_did_not_move_is_there(tmp_path: Path) -> None:
    model = small_model(tmp_path, "small-vit")
    bundle = load_bundle(model, device=CPU)
    (still,) = changes_between(bundle.model, bundle.model, ["visual.ln_pre.bias"])
    assert still.measures == {"l2": 0.0, "relative_pct": None, "rms": 0.0, "largest": 0.0}


@pytest.mark.slow
def test_features_of_test_images_are_compared_class_by_class(small_world: SmallWorld, tmp_path: Path) -> None:
    model = ModelConfig("small-vit", str(small_world.weights))
    saved = save_adapter(tmp_path / "run", model)
    own = looking(small_world.data_root, num_images=None)
    _, found = inspect_adapter(tmp_path / "run", own)
    _, again = inspect_adapter(tmp_path / "run", own)
    assert again == found and len(own.before) == 1, "what was before is encoded once"
    workspace = Workspace(data_root=small_world.data_root, device=CPU)
    dataset = workspace.lists("dtd", "all")
    expected: dict[str, list[float]] = {}
    for pixels, labels in workspace.inputs(model, "fp32").test_batches(dataset, dataset.test, "image"):
        with torch.no_grad():
            before, after = (
                normalised(encode_image(one, pixels)) for one in (saved.bundle.model, cast(Any, saved.adapted).model)
            )
        for label, cosine in zip(labels.tolist(), torch.cosine_similarity(before, after).tolist(), strict=True):
            expected.setdefault(dataset.class_names[label], []).append(cosine)
    assert list(found.image_cosines) == list(dataset.class_names) == list(expected)
    for name, values in expected.items():
        assert list(found.image_cosines[name]) == pytest.approx(values, abs=1e-5)
    assert min(map(min, expected.values())) < 0.999, "so that there is something to see"
    assert (found.images_of, found.precision) == ("dtd", "fp32")
    _, some = inspect_adapter(tmp_path / "run", looking(small_world.data_root, num_images=4))
    assert {name: len(values) for name, values in some.image_cosines.items()} == dict.fromkeys(dataset.class_names, 1)


def test_an_image_tower_that_stays_is_not_run(small_world: SmallWorld) -> None:
    bundle = load_bundle(ModelConfig("small-vit", str(small_world.weights)), device=CPU)
    dataset = Workspace(data_root=small_world.data_root, device=CPU).lists("dtd", "all")
    nothing: Any = None
    found = image_cosines(bundle, nothing, dataset, "fp32", nothing, [], is_same=True)
    assert {name: [*values] for name, values in found.items()} == {name: [1.0] * 3 for name in dataset.class_names}


@pytest.mark.slow
def test_images_that_are_not_here_are_left_out_or_asked_for(tmp_path: Path) -> None:
    save_adapter(tmp_path / "run", small_model(tmp_path, "small-vit"))
    said: list[str] = []
    _, found = inspect_adapter(tmp_path / "run", looking(tmp_path, num_images=None, say=said.append))
    assert found.image_cosines == {} and "features of test images are left out: " in said[0]
    with pytest.raises(DataError):
        inspect_adapter(tmp_path / "run", looking(tmp_path, num_images=None, dataset="dtd"))


@pytest.mark.parametrize(("method", "learns"), [("coop", "vectors in place"), ("linear-probe", "logistic regression")])
def test_a_method_that_leaves_weights_alone_is_refused(method: str, learns: str, tmp_path: Path) -> None:
    save_adapter(tmp_path / "run", small_model(tmp_path, "small-vit"), method=method)
    with pytest.raises(ConfigError, match=f"inspect is for methods that edit .* {method} leaves .*; instead: {learns}"):
        inspect_adapter(tmp_path / "run", looking())
    with pytest.raises(CheckpointError, match="no adapter at"):
        inspect_adapter(tmp_path, looking())


_KEY = f'"run_key": "{"0" * 64}"'


def seeds(tmp_path: Path) -> list[Path]:
    """Return two adapters of one configuration and a third of another, whose tensors differ by known shares."""
    save_adapter(tmp_path / "one", small_model(tmp_path, "small-vit"))
    for name, old, new in (("two", '"seed": 1', '"seed": 2'), ("three", '"shots": 2', '"shots": 4')):
        shutil.copytree(tmp_path / "one", tmp_path / name)
        card = tmp_path / name / CARD_FILE
        text = card.read_text()
        assert old in text and text.count(_KEY) == 1
        card.write_text(text.replace(old, new).replace(_KEY, f'"run_key": "{name}"'))
    return [tmp_path / name for name in ("two", "one", "three")]


@pytest.mark.slow
def test_one_adapter_in_two_folders_counts_once_and_what_cannot_be_inspected_is_left_out(tmp_path: Path) -> None:
    two, one, _ = seeds(tmp_path)
    shutil.copytree(one, tmp_path / "copy")
    save_adapter(tmp_path / "coop", small_model(tmp_path, "small-vit"), method="coop")
    said: list[str] = []
    (found,) = inspect_adapters([tmp_path / "coop", one, tmp_path / "copy", two], looking(say=said.append))
    assert [inspection.seed for inspection in found.inspections] == [1, 2]
    once, left_out = said
    assert once == f"{tmp_path / 'copy'} holds the adapter of {one}, which counts once"
    assert left_out == "left out: coop, which leaves CLIP's own weights as they are"
    with pytest.raises(UneditedWeights, match="coop leaves them as they are"):
        inspect_adapters([tmp_path / "coop"], looking())


@pytest.mark.slow
def test_a_damaged_adapter_is_told_before_another_is_looked_into(tmp_path: Path) -> None:
    _, one, other = seeds(tmp_path)
    with (other / WEIGHTS_FILE).open("ab") as stream:
        stream.write(b"x")
    said: list[str] = []
    with pytest.raises(CheckpointError, match="three.* is damaged"):
        inspect_adapters([one, other], looking(tmp_path, num_images=None, say=said.append))
    assert not said


def test_labels_tell_runs_apart_with_and_without_their_records() -> None:
    recorded = {"method": "clipfit", "shots": 2, "beta": 8.0, "momentum": 0.9, "split": "a"}
    alone = {"method": "clipfit", "shots": 2, "beta": 4.0, "prompts": ("a {}",), "alone": True}
    groups = {"a": ("clipfit", recorded), "b": ("clipfit", alone), "c": ("clipfit", {**recorded, "mask": "few"})}
    assert _labels(groups) == {
        "a": "clipfit (beta=8.0)",
        "b": "clipfit (beta=4.0, without its record)",
        "c": "clipfit (beta=8.0, mask=few)",
    }
    assert _labels({"b": groups["b"]}) == {"b": "clipfit"}


def test_equal_features_have_a_cosine_of_exactly_one() -> None:
    rows = normalised(torch.randn(64, 37, generator=torch.Generator().manual_seed(1)))
    assert _cosines(rows, rows.clone()) == [1.0] * 64
    others = normalised(rows + 0.1 * rows.roll(1, dims=0))
    assert _cosines(rows, others) == pytest.approx(torch.cosine_similarity(rows, others).tolist(), abs=1e-6)
    assert _cosines(rows, -rows) == pytest.approx([-1.0] * 64)


@pytest.mark.slow
def test_features_that_are_not_finite_have_no_cosine(small_world: SmallWorld, tmp_path: Path) -> None:
    save_adapter(tmp_path / "run", ModelConfig("small-vit", str(small_world.weights)))
    tensors = {name: 1e30 * tensor for name, tensor in load_file(tmp_path / "run" / WEIGHTS_FILE).items()}
    card = tmp_path / "run" / CARD_FILE
    old = hashlib.sha256((tmp_path / "run" / WEIGHTS_FILE).read_bytes()).hexdigest()
    save_file(tensors, tmp_path / "run" / WEIGHTS_FILE)
    new = hashlib.sha256((tmp_path / "run" / WEIGHTS_FILE).read_bytes()).hexdigest()
    card.write_text(card.read_text().replace(old, new))
    found = inspect_adapters([tmp_path / "run"], looking(small_world.data_root, num_images=2))
    table = table_of_inspections(found)
    shown = tables_for_people(found, table, per_tensor=False, per_class=False)[-1]
    assert [row["cosine"] for row in shown.rows] == [None, None] and "not finite" in shown.captions[0]
    assert all(cast(float, row["l2"]) > 1e20 for row in table.rows if row["level"] == "tensor")
    to_csv(table)


@pytest.mark.slow
def test_runs_that_differ_in_seeds_alone_are_averaged(tmp_path: Path) -> None:
    found = inspect_adapters(seeds(tmp_path), looking())
    assert [[one.seed for one in group.inspections] for group in found] == [[1, 2], [1]]
    assert [group.label for group in found] == ["clipfit (shots=2)", "clipfit (shots=4)"]
    first, second = found[0].inspections
    doubled = replace(second, changes=tuple(replace(one, squares=9 * one.squares) for one in second.changes))
    table = table_of_inspections([replace(found[0], inspections=(first, doubled))])
    rows = {row["name"]: row for row in table.rows if row["level"] == "tensor"}
    for one in first.changes:
        length = cast(float, one.measures["l2"])
        assert rows[one.name]["l2"] == pytest.approx(2 * length) and rows[one.name]["l2_std"] == pytest.approx(length)
        assert rows[one.name]["largest_std"] == 0 and rows[one.name]["seeds"] == [1, 2]
    towers = {row["tower"]: row for row in table.rows if row["level"] == "tower"}
    squares = sum(one.squares for one in first.changes if one.tower == "text")
    assert towers["text"]["l2"] == pytest.approx(2 * squares**0.5)
    levels = {row["level"] for row in table.rows}
    assert levels == {"tensor", "part", "block", "tower", "class features"}
