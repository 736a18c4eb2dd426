"""What is known without weights: descriptions, the list of pairs, and the memory of both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipfit_cli.errors import ModelError, UnknownNameError
from clipfit_cli.models import architectures
from clipfit_cli.models.architectures import Architecture, build_on_meta, describe, describe_all, pairs
from tests.conftest import SMALL_ARCHITECTURE


def test_descriptions(small_architecture: str) -> None:
    assert describe("ViT-B-16") == Architecture(149_620_737, 224, "ViT", "causal")
    assert describe("RN50x4").image_tower == "ResNet" and describe("RN50x4").image_size == 288
    assert describe("ViT-B-16-SigLIP") == Architecture(203_155_970, 224, "timm ViT", "not causal")
    assert describe("clipfit-tiny").image_size == 64
    assert describe(small_architecture).image_size == 32


def test_nothing_is_allocated() -> None:
    assert {parameter.device.type for parameter in build_on_meta("ViT-bigG-14").parameters()} == {"meta"}


def test_unknown_backbone() -> None:
    with pytest.raises(UnknownNameError, match="ViT-B-16"):
        build_on_meta("ViT-B-61")


def test_a_backbone_that_cannot_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise ImportError("no module called so\nand more")

    monkeypatch.setattr("open_clip.create_model", fail)
    with pytest.raises(ModelError, match="cannot build ViT-B-16 here: no module called so$"):
        build_on_meta("ViT-B-16")


def test_pairs() -> None:
    assert pairs(["clipfit"]) == [("clipfit-tiny", "builtin")]
    found = pairs(["VIT-B-16", "openai"])
    assert ("ViT-B-16", "openai") in found and ("ViT-B-16-quickgelu", "openai") in found
    assert all("vit-b-16" in backbone.lower() and pretrained == "openai" for backbone, pretrained in found)
    assert ("coca_base", None) in pairs(["coca_base"])
    assert pairs(["no such thing"]) == []


def test_what_was_described_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cache" / "known.json"
    asked: list[int] = []
    first = describe_all(["RN50", "ViT-B-32", "RN50"], file=file, on_new=asked.append)
    assert list(first) == ["RN50", "ViT-B-32"] and asked == [2]
    monkeypatch.setattr(architectures, "describe", lambda name: pytest.fail(f"{name} was built again"))
    again = describe_all(["ViT-B-32", "RN50"], file=file, on_new=asked.append)
    assert again == first and asked == [2]


@pytest.mark.parametrize("content", ["{", "[" * 100_000, "[]", '["other", 1]', '["other", {}]'])
def test_a_memory_of_no_use_counts_as_empty(content: str, tmp_path: Path) -> None:
    file = tmp_path / "known.json"
    file.write_text(content)
    assert describe_all(["RN50"], file=file)["RN50"] == describe("RN50")
    assert "RN50" in json.loads(file.read_text())[1]


def test_failures_are_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_architecture: str) -> None:
    file = tmp_path / "known.json"

    def fail(backbone: str) -> Architecture:
        raise ModelError(f"{backbone} needs what is not here")

    with monkeypatch.context() as patched:
        patched.setattr(architectures, "describe", fail)
        failed = describe_all([SMALL_ARCHITECTURE], file=file)[SMALL_ARCHITECTURE]
        assert isinstance(failed, ModelError) and not file.exists()
    assert isinstance(describe_all([SMALL_ARCHITECTURE], file=file)[SMALL_ARCHITECTURE], Architecture)
