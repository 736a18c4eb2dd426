"""`clipfit models` and `clipfit models show`."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from clipfit_cli.cli.app import app
from clipfit_cli.cli.models import layer_of
from clipfit_cli.models.hf_kinds import KINDS, Kind, Part
from tests.conftest import golden_json
from tests.models.test_towers import MEASURED, on_meta


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["models", *arguments], env={"COLUMNS": "120"})


def rows_of(*arguments: str) -> list[dict[str, Any]]:
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    rows: list[dict[str, Any]] = json.loads(result.stdout)["rows"]
    return rows


def test_the_list_by_words() -> None:
    (row,) = rows_of("clipfit-tiny")
    assert (row["backbone"], row["pretrained"], row["cached"], row["image_size"]) == (
        "clipfit-tiny",
        "builtin",
        "yes",
        64,
    )
    rows = rows_of("vit-b-16", "openai")
    assert [(row["backbone"], row["num_parameters"]) for row in rows] == [
        ("ViT-B-16", 149_620_737),
        ("ViT-B-16-quickgelu", 149_620_737),
    ]
    assert {row["image_tower"] for row in rows} == {"ViT"} and {row["text_tower"] for row in rows} == {"causal"}
    result = invoke("list", "vit-b-16", "openai")
    assert result.exit_code == 0 and "149.6M" in result.stdout and "ViT + causal" in result.stdout


def test_csv_goes_alone_to_stdout() -> None:
    result = invoke("RN50", "openai", "--csv", "-")
    (first, *_) = csv.DictReader(io.StringIO(result.stdout))
    assert first["backbone"] == "RN50" and first["num_parameters"] == "102007137"


def test_a_backbone_that_cannot_be_built_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    (row,) = rows_of("coca_roberta")
    assert row["num_parameters"] is None and "roberta-base (text model of coca_roberta-ViT-B-32)" in row["problem"]
    result = invoke("coca_roberta")
    assert "models show coca_roberta-ViT-B-32 says why" in result.stdout


def test_words_that_nothing_contains() -> None:
    result = invoke("no-such-model")
    assert result.exit_code == 2 and "no-such-model" in result.stderr


@pytest.mark.parametrize("backbone", MEASURED)
@pytest.mark.slow
def test_show_has_the_measured_counts(backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = golden_json("param_counts.json")[backbone]
    on_meta(backbone, tmp_path, monkeypatch)
    rows = rows_of("show", backbone)
    text = [row for row in rows if row["tower"] == "text"]
    image = [row for row in rows if row["tower"] == "image"]
    assert [len(image), sum(row["num_values"] for row in image)] == golden["vis_module_LN"]
    if "roberta" in backbone:
        assert [len(text), sum(row["num_values"] for row in text)] == [12, 9216]
    else:
        assert sorted(row["tensor"] for row in rows) == sorted(golden["names_clipfit"])
        assert sum(row["num_values"] for row in rows) == golden["clipfit_by_module"]
    bitfit = rows_of("show", backbone, "--method", "bitfit")
    assert sum(row["num_values"] for row in bitfit) == golden["bitfit_both"]


def test_show_for_people() -> None:
    result = invoke("show", "ViT-B-16", "--method", "clipfit")
    assert "clipfit on ViT-B-16: 46,080 of 149,620,737 values train (0.031 %)" in result.stdout
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["image", "visual.transformer.resblocks.3", "4", "3,072"] in lines
    assert ["image", "all", "52", "39,936"] in lines and ["text", "all", "12", "6,144"] in lines


def test_show_with_settings_of_the_method() -> None:
    rows = rows_of("show", "ViT-B-16", "--method", "clipfit:text_biases=none,image_layer_norms=11")
    assert {row["tower"] for row in rows} == {"image"} and sum(row["num_values"] for row in rows) == 4 * 768 + 2 * 768
    assert rows_of("show", "RN50", "--method", "zero-shot") == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["show", "ViT-B-61"], 2, "did you mean"),
        (["show", "RN50", "--method", "clipfat"], 2, "clipfit"),
        (["show", "RN50", "--method", "clipfit,bitfit"], 2, "one method"),
        (["show", "RN50", "--method", "clipfit:image_layer_norms=3"], 2, "0 transformer blocks"),
    ],
)
def test_errors(arguments: list[str], code: int, message: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == code and message.lower() in result.stderr.lower()


def test_layers() -> None:
    assert layer_of("visual.trunk.stages.0.blocks.2.norm.weight") == "visual.trunk.stages.0.blocks.2"
    assert layer_of("visual.ln_pre.bias") == "visual.ln_pre"
    assert layer_of("positional_embedding") == ""


@pytest.mark.slow
def test_kinds_of_models() -> None:
    """open_clip's counts are those that were measured; the same architecture in transformers has the same."""
    golden, rows = golden_json("param_counts.json"), {row["kind"]: row for row in rows_of("kinds")}
    for name in ("ViT-B-16", "coca_ViT-B-32", "ViT-B-16-SigLIP", "convnext_base", "EVA02-B-16"):
        assert rows[name]["image_values"] == golden[name]["vis_module_LN"][1]
        assert rows[name]["text_values"] == golden[name]["ffn2_text"][1]
        assert rows[name]["num_parameters"] == golden[name]["total"]
    assert [name for name, row in rows.items() if row["library"] == "transformers"] == list(KINDS)
    for own, other in (("siglip", "ViT-B-16-SigLIP"), ("clip", "ViT-B-16"), ("metaclip_2", "ViT-B-16")):
        assert [rows[own][one] for one in ("image_values", "text_values", "other_values")] == [
            rows[other][one] for one in ("image_values", "text_values", "other_values")
        ]
    assert rows["siglip"]["num_parameters"] == rows["ViT-B-16-SigLIP"]["num_parameters"]
    assert (rows["blip"]["image_values"], rows["blip"]["text_values"]) == (25 * 2 * 768, 12 * 768)
    assert (rows["align"]["image_values"], rows["align"]["text_values"]) == (0, 12 * 768)
    assert not any(row["problem"] for row in rows.values())


@pytest.mark.slow
def test_kinds_that_a_method_cannot_serve_or_that_are_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipfit_cli.models.architectures.EXAMPLES", ("ViT-B-16", "RN50"))
    some = {"blip": KINDS["blip"], "new": Kind("NoSuchModel", Part("a"), Part("b"))}
    monkeypatch.setattr("clipfit_cli.models.architectures.KINDS", some)
    rows = {row["kind"]: row for row in rows_of("kinds", "--method", "clip-lora")}
    assert rows["ViT-B-16"]["image_values"] and not rows["ViT-B-16"]["problem"]
    for name, problem in (
        ("RN50", "ResNet"),
        ("blip", "Hugging Face blip"),
        ("new", "NoSuchModel is not there: pip install"),
    ):
        assert rows[name]["image_values"] is None and problem in rows[name]["problem"]
    shown = invoke("kinds", "--method", "clip-lora").stdout
    assert "–: the method cannot train there" in shown and "(not to be built)" in shown
    assert "expected one method" in invoke("kinds", "--method", "weights").stderr


@pytest.mark.slow
def test_the_table_of_kinds_in_the_documentation() -> None:
    result = CliRunner().invoke(app, ["models", "kinds"], env={"COLUMNS": "80"})
    text = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    tables = [block for block in re.findall(r"```text\n(.*?)```", text, re.DOTALL) if block.startswith("What clipfit")]
    assert [sorted(table.split()) for table in tables] == [
        sorted(result.stdout.split())
    ]  # where a cell folds is rich's
