"""What a checkpoint's own processor and tokenizer do is done here, or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file

from clipfit_cli.config import ModelConfig
from clipfit_cli.data.pixels.transforms import eval_crop, normalise
from clipfit_cli.errors import ModelError
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.load import load_bundle
from clipfit_cli.models.source import find_blueprint
from clipfit_cli.models.tokenizers import tokenizer_of
from clipfit_cli.runs.workspace import image_spec
from tests.hf_models import CONTEXT, HF_KINDS, change_json, patches_of, write_hf_model

PROCESSOR = "preprocessor_config.json"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: write_hf_model(kind, tmp_path_factory.mktemp(kind)) for kind in HF_KINDS}


def loaded(folder: Path) -> ClipBundle:
    return load_bundle(ModelConfig(str(folder), str(folder)), device=torch.device("cpu"))


def picture(width: int, height: int) -> Image.Image:
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / 9 + shift) * np.cos(columns / 7 - shift) for shift in (0, 1, 2)]
    return Image.fromarray((127.5 + 127.5 * np.stack(waves, axis=-1)).astype(np.uint8))


@pytest.mark.parametrize("kind", HF_KINDS)
def test_pictures_become_what_the_processor_makes_of_them(kind: str, made: dict[str, Path]) -> None:
    """Exactly where nothing is resized; else but for the rounding of another library's resizing."""
    bundle = loaded(made[kind])
    spec = image_spec(bundle)
    hf: Any = transformers
    processor = hf.AutoImageProcessor.from_pretrained(made[kind])
    shapes = [(spec.size, spec.size), (90, 80), (80, 90)]
    for width, height in shapes[:1] if kind == "siglip2" else shapes:
        image = picture(width, height)
        own = normalise(eval_crop(image, spec)[None], spec)
        theirs = processor(image, return_tensors="pt").pixel_values
        if kind == "siglip2":
            own, theirs = patches_of(own), theirs[:, :16]
        assert own.shape == theirs.shape
        if (width, height) == shapes[0]:
            torch.testing.assert_close(own, theirs, atol=2e-6, rtol=0)
        else:
            assert float((own - theirs).abs().max()) < 0.1 and float((own - theirs).abs().mean()) < 0.01
            assert float((own - theirs.flip(-1)).abs().mean()) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("clip", {"size": {"shortest_edge": 36}}, r"resized to \{'shortest_edge': 36\} and cut to"),
        ("clip", {"crop_size": {"height": 28, "width": 28}}, "and cut to"),
        ("clip", {"do_center_crop": False}, "and cut to None"),
        ("clip", {"do_resize": False}, "images are not resized"),
        ("clip", {"resample": 1}, "resample is 1, expected 2"),
        ("clip", {"resample": 99}, "cannot be read as an image processor|asks for what"),
        ("clip", {"image_std": [0, 0, 0]}, r"the standard deviation is \(0.0, 0.0, 0.0\)"),
        ("clip", {"image_mean": [0.5]}, "not three numbers each"),
        ("clip", {"image_mean": "grey"}, "asks for what clipfit does not do"),
        ("clip", {"rescale_factor": 0}, "asks for what clipfit does not do"),
        ("clip", {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}, "the image tower takes 32"),
        ("clip", {"do_pad": True, "pad_size": {"height": 64, "width": 64}}, r"it makes \(1, 3, 64, 64\) numbers"),
        ("clip", {"image_processor_type": "MobileViTImageProcessor"}, "it makes other pixels than size, crop, mean"),
        ("clip", {"rescale_factor": "x"}, "asks for what clipfit does not do|cannot be read"),
        ("blip", {"size": {"height": 32, "width": 48}}, "resized to"),
        ("align", {"size": {"height": 10**7, "width": 10**7}}, "images are of 10000000 pixels, expected 1 to 4096"),
        ("align", {"size": {"height": 0, "width": 0}}, "images are of 0 pixels|cannot be read"),
        ("siglip2", {"max_num_patches": 10**9}, "expected 1 to 4096"),
        ("siglip2", {"patch_size": 16}, "patches are 16 pixels large, the image tower takes 8"),
        ("clip", {"image_processor_type": "NoSuchProcessor"}, "cannot be read as an image processor|does not"),
    ],
    ids=str,
)
def test_what_is_not_done_to_pictures(
    kind: str, changes: dict[str, Any], message: str, made: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(made[kind], tmp_path / "model"))
    change_json(folder / PROCESSOR, **changes)
    with pytest.raises(ModelError, match=message):
        loaded(folder)


@pytest.mark.slow
def test_a_processor_that_leaves_out_a_step(made: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made["blip"], tmp_path / "model"))
    change_json(folder / PROCESSOR, do_normalize=False, resample=2)
    bundle = loaded(folder)
    assert (bundle.image_mean, bundle.image_std, bundle.interpolation) == ((0.0,) * 3, (1.0,) * 3, "bilinear")


@pytest.mark.slow
def test_one_number_for_all_colours(made: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made["blip"], tmp_path / "model"))
    change_json(folder / PROCESSOR, image_mean=0.25, image_std=0.5)
    bundle = loaded(folder)
    assert (bundle.image_mean, bundle.image_std) == ((0.25,) * 3, (0.5,) * 3)


@pytest.mark.parametrize("kind", HF_KINDS)
def test_tokens_are_those_of_the_tokenizer(kind: str, made: dict[str, Path]) -> None:
    tokenizer = tokenizer_of(find_blueprint(str(made[kind])))
    own: Any = transformers.AutoTokenizer.from_pretrained(made[kind])
    prompts = ["a photo of a polka dotted type.", "The Sea."]
    tokens = tokenizer.tokenize(prompts)
    context = CONTEXT - 2 if kind == "altclip" else CONTEXT  # RoBERTa's positions begin behind that of padding
    assert tokens.shape == (2, context) and tokens.dtype == torch.int64
    for row, prompt in zip(tokens.tolist(), prompts, strict=True):
        ids = own(prompt).input_ids
        assert row == ids + [own.pad_token_id] * (context - len(ids))
        assert tokenizer.count(prompt) == len(ids)
    assert tokenizer.count("lake " * 100) > context


@pytest.mark.slow
def test_the_context_is_the_shorter_of_both(made: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made["blip"], tmp_path / "model"))
    change_json(folder / "tokenizer_config.json", model_max_length=16)
    assert tokenizer_of(find_blueprint(str(folder))).tokenize(["sea"]).shape == (1, 16)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("tokenizer_config.json", {"model_max_length": 2}, "it reads 2 tokens"),
        ("tokenizer.json", {"model": {"type": "BPE"}}, "it has 2 tokens, the text tower 56|Missing vocab"),
        ("tokenizer_config.json", {"model_max_length": "long"}, "cannot be used"),
    ],
    ids=str,
)
def test_tokenizers_that_cannot_be(
    name: str, changes: dict[str, Any], message: str, made: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(made["clip"], tmp_path / "model"))
    change_json(folder / name, **changes)
    with pytest.raises(ModelError, match=message):
        tokenizer_of(find_blueprint(str(folder)))


@pytest.mark.slow
def test_a_tokenizer_of_files_that_a_model_is_not_known_by(made: dict[str, Path], tmp_path: Path) -> None:
    """Such a file could change and the model stay the same."""
    versions = Path(shutil.copytree(made["clip"], tmp_path / "versions"))
    change_json(versions / "tokenizer_config.json", fast_tokenizer_files=["tokenizer.4.0.json", "tokenizer.json"])
    shutil.copyfile(versions / "tokenizer.json", versions / "tokenizer.4.0.json")
    with pytest.raises(ModelError, match=r"cannot be used \(it reads tokenizer\.4\.0\.json, expected tok"):
        tokenizer_of(find_blueprint(str(versions)))

    other = Path(shutil.copytree(made["clip"], tmp_path / "other"))
    change_json(other / "tokenizer_config.json", tokenizer_class="PhobertTokenizer")
    (other / "vocab.txt").write_text("a 1\n")
    (other / "bpe.codes").write_text("a b 1\n")
    with pytest.raises(ModelError, match=r"cannot be used \(it reads bpe\.codes, expected"):
        tokenizer_of(find_blueprint(str(other)))


@pytest.mark.slow
def test_a_tokenizer_of_another_model(made: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made["clip"], tmp_path / "model"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(made["blip"] / name, folder / name)
    with pytest.raises(ModelError, match="tokens, the text tower 56"):
        tokenizer_of(find_blueprint(str(folder)))


@pytest.mark.slow
def test_siglip_reads_letters_and_no_marks(made: dict[str, Path]) -> None:
    """Its own class does so, by sentencepiece."""
    tokenizer = tokenizer_of(find_blueprint(str(made["siglip"])))
    assert torch.equal(tokenizer.tokenize(["A  Lake!"]), tokenizer.tokenize(["a lake"]))


@pytest.mark.slow
def test_a_checkpoint_as_it_lay_on_the_hub_for_years(made: dict[str, Path], tmp_path: Path) -> None:
    """Sizes as numbers, a feature extractor, settings of generation, a vocabulary with merges, positions as weights."""
    folder = Path(shutil.copytree(made["clip"], tmp_path / "model"))
    expected = loaded(folder)
    config, vocabulary = (json.loads((folder / name).read_text()) for name in ("config.json", "tokenizer.json"))
    old: dict[str, Any] = {
        "max_length": 20,
        "num_beams": 1,
        "bad_words_ids": None,
        "torch_dtype": None,
        "pruned_heads": {},
    }
    text, vision = ({**config[name], **old} for name in ("text_config", "vision_config"))
    text |= {"eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1}
    parts = {"text_config": text, "vision_config": vision, "text_config_dict": None, "vision_config_dict": None}
    change_json(folder / "config.json", **parts, torch_dtype="float32")
    extractor = {"feature_extractor_type": "CLIPFeatureExtractor", "do_resize": True, "do_center_crop": True}
    sizes = {"size": 32, "crop_size": 32, "resample": 3, "do_normalize": True}
    means = {"image_mean": expected.image_mean, "image_std": expected.image_std}
    (folder / PROCESSOR).write_text(json.dumps({**extractor, **sizes, **means}))
    (folder / "vocab.json").write_text(json.dumps(vocabulary["model"]["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({**state, "text_model.embeddings.position_ids": torch.arange(64)[None]}, folder / "pytorch_model.bin")
    found = loaded(folder)
    assert image_spec(found) == image_spec(expected)
    tokens = found.tokenizer(["a photo of a sea.", "lake"])
    assert torch.equal(tokens, expected.tokenizer(["a photo of a sea.", "lake"]))
    with torch.no_grad():
        assert torch.equal(found.model.encode_text(tokens), expected.model.encode_text(tokens))  # type: ignore[operator]
