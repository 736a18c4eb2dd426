"""What is pushed: the tensors as they are, results of all seeds, a page; nothing of this machine, nothing that runs."""

from __future__ import annotations

import getpass
import json
import shutil
import socket
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from clipfit_cli import methods
from clipfit_cli.adapters import push as module
from clipfit_cli.adapters.predict import load_adapter
from clipfit_cli.adapters.public_names import public_location, public_model, repository_of
from clipfit_cli.adapters.push import Shared, write_pushed
from clipfit_cli.adapters.upload import Target
from clipfit_cli.config import Conditions, ModelConfig, OwnDataSet
from clipfit_cli.engine.checkpoint import UNPUBLISHED, card_to_bytes, read_card
from clipfit_cli.errors import CheckpointError, ConfigError, ModelError
from tests.adapters.saved_adapters import logits_of, register, save_adapter, small_model
from tests.adapters.shared_runs import ADAPTER, PUSHED, run, runs, split_page
from tests.results import finished_runs
from tests.results.finished_runs import add_run, rewritten

__all__ = ["run", "runs"]

HOSTILE = "x\n---\nlicense: mit\n<script>alert(1)</script> ```\n# [y](javascript:z) 'no': !!python/object"


def pushed(run: Path, out: Path, shared: Shared | None = None) -> Path:
    return write_pushed(run, out, "org/name", shared or Shared(licence="cc-by-4.0"))


def test_the_files_of_a_run(run: Path, tmp_path: Path) -> None:
    out = pushed(run, tmp_path / "out")
    assert {path.name for path in out.iterdir()} == PUSHED
    assert (out / "adapter_model.safetensors").read_bytes() == (run / "adapter_model.safetensors").read_bytes()
    assert read_card(out) == read_card(run)
    assert json.loads((out / "config.json").read_text())["base_model"] == "timm/vit_base_patch16_clip_224.openai"
    for path in out.iterdir():
        assert path.suffix in (".json", ".md", ".safetensors") and not path.stat().st_mode & stat.S_IXUSR


@pytest.mark.slow
def test_results_of_all_seeds_and_the_command(run: Path, tmp_path: Path) -> None:
    other = add_run(tmp_path / "runs", seed=3, settings={"beta": 9.0})[0]
    strange = add_run(tmp_path / "runs", seed=4)[0]
    rewritten(strange / "record.json", split_sha256="e" * 64)
    (add_run(tmp_path / "runs", seed=5)[0] / "record.json").write_text("{}")
    shutil.copytree(add_run(tmp_path / "else", seed=6)[0], run.parent / ".killed.unfinished")
    assert other.parent == strange.parent == run.parent
    plain = json.loads((pushed(run, tmp_path / "out") / "run.json").read_text())
    assert set(plain["training"]["run_keys"]) == {"1", "2"}
    base, new = plain["results"]
    assert (base["subset"], new["subset"]) == ("base", "new") and set(new["accuracy_pct"]) == {"1", "2"}
    record = json.loads((run / "record.json").read_text())
    assert plain["run_key"] == record["key"] and plain["training"]["split_sha256"] == record["split_sha256"]
    assert plain["training"]["split_file_sha256"] == "f" * 64 and plain["clipfit"]
    assert plain["files"].keys() == PUSHED - {"run.json"}


@pytest.mark.slow
def test_the_page(run: Path, tmp_path: Path) -> None:
    out = pushed(run, tmp_path / "out")
    head, text = split_page(out)
    assert head["library_name"] == "clipfit" and head["license"] == "cc-by-4.0" and head["datasets"] == ["dtd"]
    assert head["base_model"] == "timm/vit_base_patch16_clip_224.openai" and head["base_model_relation"] == "adapter"
    (base, new) = ModelCard.load(out / "README.md").data.eval_results
    assert (base.dataset_config, new.dataset_config, base.metric_type) == ("base", "new", "accuracy")
    scores = json.loads((out / "run.json").read_text())["results"][0]["accuracy_pct"]
    assert base.metric_value == pytest.approx(sum(scores.values()) / 2, abs=1e-4)
    assert base.metric_args["seeds"] == [1, 2] and base.metric_args["num_images"] == 60
    assert "Harmonic mean of base and new classes:" in text and "hf:org/name photo.jpg" in text
    assert "licence: cc-by-4.0" in text
    without, _ = split_page(pushed(run, tmp_path / "second", Shared()))
    assert "license" not in without


@pytest.mark.slow
def test_the_command_names_all_seeds(own_run: Path, tmp_path: Path) -> None:
    out = pushed(own_run, tmp_path / "out")
    (line,) = json.loads((out / "run.json").read_text())["commands"]
    assert "--seeds 1,2" in line and "--pretrained FILE" in line and line in split_page(out)[1]
    assert "--dataset mine=FOLDER" in line


@pytest.fixture
def own_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run on images of one's own and weights of one's own, with another seed beside it; its notes name places."""
    info = methods.get("clipfit")
    resolved = methods.resolve(info, {}, Conditions("few-shot", "mine", 4))
    own: dict[str, Any] = {
        "dataset": "mine",
        "subset": "all",
        "shots": 4,
        "settings": resolved.settings,
        "stages": resolved.stages,
        "model": ModelConfig("ViT-B-16", str(tmp_path / "secret" / "weights.pt")),
    }
    monkeypatch.setattr(finished_runs, "ADAPTER", ADAPTER)
    notes = (f"left out {tmp_path}/secret/broken.jpg",)
    place = str(tmp_path / "secret" / "mine")
    own["own"] = {"mine": OwnDataSet("mine", "folder", place)}
    folders = [add_run(tmp_path / "runs", subsets=("all",), seed=seed, notes=notes, **own)[0] for seed in (1, 2)]
    for folder in folders:
        rewritten(folder / "record.json", location=place)
        for path in (folder / "tests").glob("*.json"):
            rewritten(path, location=place, dataset="mine")
    return folders[0]


def test_nothing_of_this_machine_goes_along(own_run: Path, tmp_path: Path) -> None:
    out = pushed(own_run, tmp_path / "out")
    told = b"\n".join(path.read_bytes() for path in out.iterdir())
    for secret in (
        str(tmp_path),
        "secret",
        str(Path.home()) + "/",
        str(Path.cwd()),
        socket.gethostname(),
        "weights.pt",
    ):
        assert secret.encode() not in told, secret
    assert len(getpass.getuser()) < 5 or getpass.getuser().encode() not in told
    assert read_card(out).pretrained == UNPUBLISHED and read_card(out).backbone == "ViT-B-16"
    assert "--pretrained PATH" in split_page(out)[1]


def test_hostile_names_stay_text(run: Path, tmp_path: Path) -> None:
    card = replace(read_card(run), class_names=(HOSTILE, "b"), dataset=HOSTILE, prompt_templates=(f"a {{}} {HOSTILE}",))
    (run / "adapter_config.json").write_bytes(card_to_bytes(card))
    out = pushed(run, tmp_path / "out")
    head, text = split_page(out)
    usual, _ = split_page(pushed(add_run(tmp_path / "else", seed=1)[0], tmp_path / "usual"))
    assert head.keys() == usual.keys() - {"datasets"} and head["license"] == "cc-by-4.0"
    tokens = MarkdownIt("gfm-like", {"linkify": False}).enable("table").parse(text)
    kinds = {one.type for token in tokens for one in (token, *(token.children or ()))}
    assert not kinds & {"html_block", "html_inline", "link_open", "image"}
    assert sum(token.type == "heading_open" for token in tokens) == 6 - ("## Make it again" not in text)
    assert read_card(out).class_names == card.class_names


@pytest.mark.slow
def test_a_hostile_summary_stays_text(run: Path, tmp_path: Path) -> None:
    first = pushed(run, tmp_path / "first")
    plain = json.loads((first / "run.json").read_text())
    plain["clipfit"] = plain["training"]["device"] = plain["training"]["hub_dataset"] = HOSTILE
    plain["training"] |= {"versions": {HOSTILE: HOSTILE}, "chosen": {HOSTILE: HOSTILE}, "origin": HOSTILE}
    plain["results"][0] |= {"dataset": HOSTILE, "transform": HOSTILE, "precision": HOSTILE, "subset": HOSTILE}
    plain["commands"] = ["clipfit train", f"clipfit {HOSTILE}", "rm -rf ~"]
    (first / "run.json").write_text(json.dumps(plain))
    out = pushed(first, tmp_path / "out")
    head, text = split_page(out)
    tokens = MarkdownIt("gfm-like", {"linkify": False}).enable("table").parse(text)
    kinds = {one.type for token in tokens for one in (token, *(token.children or ()))}
    assert not kinds & {"html_block", "html_inline", "link_open", "image"}
    assert sum(token.type == "heading_open" for token in tokens) == 6 and head["license"] == "cc-by-4.0"
    assert json.loads((out / "run.json").read_text())["commands"] == ["clipfit train"]


@pytest.mark.slow
def test_a_hostile_data_set_in_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    folder = add_run(tmp_path / "hostile", seed=1)[0]
    for path in (folder / "tests").glob("*.json"):
        rewritten(path, dataset=HOSTILE)
    head, _ = split_page(pushed(folder, tmp_path / "out"))
    (index,) = head["model-index"]
    assert {one["dataset"]["type"] for one in index["results"]} == {
        "x-license-mit-script-alert-1-script-y-javascript-z-no-python-object"
    }
    assert all("\n" not in one["dataset"]["name"] for one in index["results"])


@pytest.mark.slow
@pytest.mark.parametrize("record", [None, '{"schema_version": 1}'])
def test_an_adapter_without_its_record(record: str | None, run: Path, tmp_path: Path) -> None:
    (run / "record.json").unlink()
    if record:  # of 0.1, which nothing reads
        (run / "record.json").write_text(record)
    out = pushed(run, tmp_path / "out")
    head, text = split_page(out)
    assert "model-index" not in head and "## Results" not in text and head["datasets"] == ["dtd"]
    assert json.loads((out / "run.json").read_text())["training"] is None


@pytest.mark.slow
def test_a_folder_that_was_written_before_is_pushed_with_its_results(run: Path, tmp_path: Path) -> None:
    first = pushed(run, tmp_path / "first")
    again = pushed(first, tmp_path / "again")
    assert all((again / name).read_bytes() == (first / name).read_bytes() for name in PUSHED)


@pytest.mark.slow
@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[" * 100_000, b'{"kind":"adapter","run_key":"KEY","schema_version":9}', b"other"]
)
def test_a_summary_that_is_not_of_the_run(content: bytes, run: Path, tmp_path: Path) -> None:
    first = pushed(run, tmp_path / "first")
    plain = json.loads((first / "run.json").read_text())
    if content == b"other":
        content = json.dumps({**plain, "run_key": "0" * 64}).encode()
    (first / "run.json").write_bytes(content.replace(b"KEY", plain["run_key"].encode()))
    said: list[str] = []
    out = write_pushed(first, tmp_path / "out", "org/name", Shared(), say=said.append)
    assert json.loads((out / "run.json").read_text())["results"] == []
    assert said == [f"the record of its run does not lie beside the adapter in {first}: it goes without results"]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["card", "record"])
def test_an_adapter_that_was_changed_is_not_pushed(what: str, run: Path, tmp_path: Path) -> None:
    content = (run / "adapter_model.safetensors").read_bytes()
    (run / "adapter_model.safetensors").write_bytes(content[:-1] + b"\1")
    if what == "record":
        (run / "adapter_config.json").write_bytes(card_to_bytes(replace(read_card(run), adapter_sha256=None)))
    with pytest.raises(CheckpointError, match="has been changed since its run was recorded"):
        pushed(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_folder_with_something_in_it_stays(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    pushed(run, tmp_path / "empty")
    for out in (tmp_path / "empty", run / "record.json"):
        with pytest.raises(ConfigError, match="exists already"):
            pushed(run, out)


@pytest.mark.parametrize(
    "name", ["name", "org/name/more", "org//name", "-org/name", "org/na me", "o/" + "n" * 200, "../.."]
)
def test_names_that_no_repository_has(name: str) -> None:
    with pytest.raises(ConfigError, match="is no repository of the hub; expected ORG/NAME"):
        Target(name)


def test_values_that_cannot_be(run: Path) -> None:
    with pytest.raises(ConfigError, match="is no name of a licence"):
        Shared(licence="mit\nx: y")
    with pytest.raises(ConfigError, match="is no branch"):
        Target("org/name", "../x")


@pytest.mark.parametrize(
    ("backbone", "pretrained", "named", "repository"),
    [
        ("ViT-B-16", "openai", ("ViT-B-16", "openai"), "timm/vit_base_patch16_clip_224.openai"),
        ("clipfit-tiny", "builtin", ("clipfit-tiny", "builtin"), None),
        ("hf-hub:org/m", "hf-hub:org/m", ("hf-hub:org/m", "hf-hub:org/m"), "org/m"),
        ("ViT-B-16", "hf:org/m", ("ViT-B-16", "hf:org/m"), "org/m"),
        ("ViT-B-16", "/data/w.pt", ("ViT-B-16", UNPUBLISHED), None),
        ("/data/m", "/data/m", (UNPUBLISHED, UNPUBLISHED), None),
        ("ViT-B-16", "hf-hub:../w/m", ("ViT-B-16", UNPUBLISHED), None),
    ],
)
def test_what_others_find_by_its_name(
    backbone: str, pretrained: str, named: tuple[str, str], repository: str | None
) -> None:
    model = ModelConfig(backbone, pretrained)
    assert (public_model(model).backbone, public_model(model).pretrained) == named
    assert repository_of(model) == repository


def test_where_others_find_images() -> None:
    assert [public_location(one) for one in ("/data/x", "org/pets:small", "C:\\x", "https://h/x.tar", "")] == [
        *("", "org/pets:small", "", "", "")
    ]


@pytest.mark.slow
def test_weights_that_are_not_published_have_to_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)
    model = small_model(tmp_path, "small-vit")
    made = save_adapter(tmp_path / "run", model)
    out = pushed(tmp_path / "run", tmp_path / "out")
    with pytest.raises(ModelError, match=r"weights that are not published \(sha256 \w{12}, of small-vit\); name"):
        load_adapter(out)
    found = load_adapter(out, pretrained=model.pretrained, device="cpu")
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(found.logits(images), logits_of(made, images))


def test_what_could_run_is_not_pushed(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_pickle(folder: Path, merged: object) -> None:
        (folder / "model.bin").touch()

    monkeypatch.setattr(module, "merge", lambda *_: None)
    monkeypatch.setattr(module, "write_model", write_pickle)
    with pytest.raises(CheckpointError, match=r"model\.bin cannot be shared"):
        pushed(run, tmp_path / "out", Shared(merged=True))


@pytest.mark.slow
def test_places_in_configurations_of_a_merged_model(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = str(tmp_path)
    written = {"tokenizer_config.json": {"a": [place, "b"], "map": {"file": place, "c": "/"}}}

    def write(folder: Path, merged: object) -> None:
        for name, plain in written.items():
            (folder / name).write_text(json.dumps(plain))

    monkeypatch.setattr(module, "merge", lambda *_: None)
    monkeypatch.setattr(module, "write_model", write)
    out = pushed(run, tmp_path / "out", Shared(merged=True))
    assert json.loads((out / "tokenizer_config.json").read_text()) == {"a": ["b"], "map": {"c": "/"}}
    head, _ = split_page(out)
    assert (head["library_name"], head["base_model_relation"]) == ("open_clip", "finetune")
    written["open_clip_config.json"] = {"map": {"file": place}}
    with pytest.raises(ConfigError, match="names a folder of this machine"):
        pushed(run, tmp_path / "second", Shared(merged=True))
    assert (tmp_path / "out").exists() and not (tmp_path / "second").exists()
