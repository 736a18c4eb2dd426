"""The built-in data set: what it promises, and that nothing about it is left to chance."""

from __future__ import annotations

import numpy as np
import pytest

from clipfit_cli.data.builtin.texture_patterns import PATTERNS
from clipfit_cli.data.builtin.textures import CLASS_NAMES, SIZE, STYLES, TEXTURE_SETS, draw, textures_dataset
from clipfit_cli.errors import DataError, UnknownNameError

VARIANTS = [name for name in TEXTURE_SETS if name != "textures"]


def _rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def test_counts_labels_and_template() -> None:
    data = textures_dataset("textures")
    assert data.num_classes == 26
    assert data.class_names == tuple(sorted(data.class_names))
    assert (len(data.train), len(data.val), len(data.test)) == (26 * 32, 26 * 8, 26 * 40)
    assert data.train[32].label == 1 and data.train[32].path == "bricked/train_000.png"
    assert all(item.path.startswith(data.class_names[item.label] + "/") for item in data.train)
    assert data.prompt_template.count("{}") == 1
    assert data.samples_val and data.train_is_sampled


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_share_the_classes_and_are_for_tests_only(name: str) -> None:
    data, source = textures_dataset(name), textures_dataset("textures")
    assert data.name == name
    assert data.class_names == source.class_names
    assert data.prompt_template == source.prompt_template
    assert data.train == data.test == source.test and data.val == ()
    assert not data.train_is_sampled
    assert data.split_sha256 != source.split_sha256


def test_images_are_rgb_and_the_same_every_time() -> None:
    data = textures_dataset("textures")
    image = data.load_image("striped/train_003.png")
    assert (image.mode, image.size) == ("RGB", (SIZE, SIZE))
    assert image.tobytes() == textures_dataset("textures").load_image("striped/train_003.png").tobytes()


def test_one_drawing_is_what_it_was_when_the_version_was_set() -> None:
    image = np.asarray(textures_dataset("textures").load_image("checkered/test_000.png"), dtype=np.float64)
    assert image.mean(axis=(0, 1)) == pytest.approx([132.33, 119.01, 99.0], abs=0.05)
    assert image.std() == pytest.approx(49.74, abs=0.05)


def test_no_image_stands_in_two_splits_or_twice() -> None:
    data = textures_dataset("textures")
    paths = [item.path for item in (*data.train, *data.val, *data.test)]
    assert len(set(paths)) == len(paths)
    few = [path for path in paths if path.startswith(("striped/", "cracked/"))]
    assert len({data.load_image(path).tobytes() for path in few}) == 2 * (32 + 8 + 40)


@pytest.mark.parametrize("name", list(TEXTURE_SETS))
def test_the_sets_have_images_of_their_own(name: str) -> None:
    image = textures_dataset(name).load_image("ringed/test_001.png").tobytes()
    others = [other for other in TEXTURE_SETS if other != name]
    assert all(image != textures_dataset(other).load_image("ringed/test_001.png").tobytes() for other in others)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("textures", "striped/train_032.png"),
        ("textures", "striped/train_3.png"),
        ("textures", "velvety/test_000.png"),
        ("textures", "../secret.png"),
        (VARIANTS[0], "striped/train_003.png"),
    ],
)
def test_a_path_that_is_not_in_the_set_is_a_data_error(name: str, path: str) -> None:
    with pytest.raises(DataError, match="paths look like"):
        textures_dataset(name).load_image(path)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="textures-dim"):
        textures_dataset("textures-dimm")
    with pytest.raises(UnknownNameError, match="striped"):
        draw("stripy", "clean", _rng(0))
    with pytest.raises(UnknownNameError, match="sketch"):
        draw("striped", "sketchy", _rng(0))
    with pytest.raises(UnknownNameError, match="purple"):
        draw("striped", "clean", _rng(0), "purpel")


@pytest.mark.parametrize("style", STYLES)
def test_drawings_differ_by_pattern_and_by_seed(style: str) -> None:
    drawings = [draw(pattern, style, _rng(seed)) for pattern in CLASS_NAMES for seed in (0, 1)]
    assert all(image.shape == (SIZE, SIZE, 3) and image.dtype == np.uint8 for image in drawings)
    assert len({image.tobytes() for image in drawings}) == len(drawings)


@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_every_pattern_shows_in_every_style(pattern: str) -> None:
    least = {"clean": 20.0, "photo": 12.0, "dim": 4.0, "relief": 6.0, "sketch": 8.0}
    for style in STYLES:
        spread = np.mean([draw(pattern, style, _rng(seed)).mean(axis=2).std() for seed in range(4)])
        assert spread > least[style], (style, spread)


def test_the_colour_of_clean_drawings_can_be_chosen() -> None:
    red, blue = (draw("checkered", "clean", _rng(0), colour).mean(axis=(0, 1)) for colour in ("red", "blue"))
    assert red[0] > red[2] + 30
    assert blue[2] > blue[0] + 30
