"""Pictures are classified as the evaluation classifies them, from files and from memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from clipfit_cli.adapters.attach import AttachedAdapter
from clipfit_cli.adapters.predict import Classifier, Picture, check_classes, load_adapter
from clipfit_cli.config import Precision
from clipfit_cli.data.files.pictures import unlabelled
from clipfit_cli.data.pixels.images import ImageStore
from clipfit_cli.data.pixels.transforms import normalise
from clipfit_cli.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    OutOfMemoryError,
    UndefinedClasses,
    UnknownNameError,
)
from clipfit_cli.models import encode
from clipfit_cli.models.encode import tapped
from clipfit_cli.runs.workspace import image_spec
from tests.adapters.saved_adapters import CLASSES, IMAGES, OnModel, logits_of, register, save_adapter, small_model


@pytest.fixture
def expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OnModel:
    """The adapter as it was saved to ``run``."""
    register(monkeypatch)
    return save_adapter(tmp_path / "run", small_model(tmp_path, "small-vit"))


@pytest.fixture
def classifier(expected: OnModel, tmp_path: Path) -> Classifier:
    return load_adapter(tmp_path / "run", device="cpu", precision="fp32")


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    generator = torch.Generator().manual_seed(3)
    paths = []
    for index, size in enumerate([(40, 33, 3), (32, 90, 3), (50, 50, 3)]):
        pixels = torch.randint(256, size, generator=generator, dtype=torch.uint8).numpy()
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def test_what_is_loaded(classifier: Classifier, expected: OnModel) -> None:
    assert classifier.class_names == CLASSES and classifier.card.method == "clipfit"
    assert classifier.device == torch.device("cpu")
    images = classifier.logits(IMAGES)
    assert torch.equal(images, logits_of(expected)) and images.shape == (5, 3)
    assert not images.requires_grad
    tuned = classifier.model.state_dict()
    assert all(torch.equal(tuned[name], tensor) for name, tensor in expected.adapted.state().items())


def test_files_are_prepared_as_in_evaluation(classifier: Classifier, expected: OnModel, pictures: list[Path]) -> None:
    spec = image_spec(classifier._bundle)
    dataset = unlabelled(pictures)
    ((crops, _),) = ImageStore().test_batches(dataset, dataset.test, spec, 100)
    probabilities = logits_of(expected, normalise(crops, spec)).softmax(dim=-1)
    found = classifier.classify(pictures)
    for best, row in zip(found, probabilities, strict=True):
        assert len(best) == 3
        assert [value for _, value in best] == sorted((value for _, value in best), reverse=True)
        assert dict(best) == pytest.approx(dict(zip(CLASSES, row.tolist(), strict=True)))


def test_files_and_open_pictures_give_the_same(classifier: Classifier, pictures: list[Path]) -> None:
    mixed: list[Picture] = [Image.open(pictures[0]), str(pictures[1]), Image.open(pictures[2])]
    done: list[tuple[str, int, int]] = []
    assert classifier.classify(mixed, on_progress=lambda *step: done.append(step)) == classifier.classify(pictures)
    assert done == [("decoding", 1, 1), ("classifying", 3, 3)]
    assert classifier.classify([]) == []
    one = classifier.preprocess(Image.open(pictures[0]))
    assert one.shape == (3, 32, 32) and one.dtype == torch.float32
    (best,) = classifier.classify(pictures[:1], top=1)
    assert len(best) == 1
    assert classifier.logits(one.unsqueeze(0)).softmax(dim=-1).max().item() == pytest.approx(best[0][1])


def test_many_pictures_come_in_batches(
    classifier: Classifier, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = classifier.classify(pictures)
    monkeypatch.setattr("clipfit_cli.adapters.predict.BATCH_SIZE", 2)
    done: list[tuple[str, int, int]] = []
    parts = classifier.classify(pictures, on_progress=lambda *step: done.append(step))
    assert done == [(what, count, 3) for what in ("decoding", "classifying") for count in (2, 3)]
    for part, one in zip(parts, whole, strict=True):
        assert dict(part) == pytest.approx(dict(one), abs=1e-6)


def test_each_file_is_decoded_once(
    classifier: Classifier, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    stores: list[ImageStore] = []

    def store() -> ImageStore:
        stores.append(ImageStore())
        return stores[-1]

    monkeypatch.setattr("clipfit_cli.adapters.predict.ImageStore", store)
    classifier.classify(pictures)
    assert [store.decoded_images for store in stores] == [3]


def test_a_transparent_picture_stays_as_it_is(classifier: Classifier) -> None:
    picture = Image.new("P", (40, 40), 3)
    picture.info["transparency"] = 3
    assert classifier.preprocess(picture).shape == (3, 32, 32)
    assert picture.info["transparency"] == 3 and picture.mode == "P"


def test_other_classes(classifier: Classifier, pictures: list[Path]) -> None:
    classifier.set_classes(["dog", "fox", "owl", "red panda"])
    assert classifier.class_names == ("dog", "fox", "owl", "red panda")
    assert classifier.logits(IMAGES).shape == (5, 4)
    assert [len(best) for best in classifier.classify(pictures, top=9)] == [4, 4, 4]
    before = classifier.logits(IMAGES)
    with pytest.raises(ConfigError, match="tokens"):
        classifier.set_classes(["dog", "word " * 40])
    assert torch.equal(classifier.logits(IMAGES), before) and len(classifier.class_names) == 4


def test_logits_that_are_not_finite_are_refused(
    classifier: Classifier, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "logits", lambda images: torch.full((len(images), 3), float("nan")))
    with pytest.raises(CheckpointError, match="training broke down"):
        classifier.classify(pictures)


def test_classes_that_a_method_has_no_answer_for_are_refused(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = classifier.logits(IMAGES)

    def refusing(names: Sequence[str], templates: Sequence[str]) -> None:
        raise UndefinedClasses(f"no answer for classes such as {names[0]}")

    monkeypatch.setattr(classifier._adapted, "classifier", refusing)
    with pytest.raises(ConfigError, match="no answer for classes such as dog"):
        classifier.set_classes(["dog", "fox", "owl"])
    assert classifier.class_names == CLASSES and torch.equal(classifier.logits(IMAGES), before)


@pytest.mark.parametrize("tap", ["projected", "unprojected"])
def test_a_method_that_takes_features_gets_them_raw_and_in_float32(tap: Any, classifier: Classifier) -> None:
    taken: list[torch.Tensor] = []

    class Behind:
        """Stands behind the frozen tower."""

        def __init__(self) -> None:
            self.tap = tap

        def classifier(self, names: Sequence[str], templates: Sequence[str]) -> Callable[[torch.Tensor], torch.Tensor]:
            def logits(features: torch.Tensor) -> torch.Tensor:
                taken.append(features)
                return features[:, : len(names)]

            return logits

    attached = AttachedAdapter(Behind(), classifier._bundle, None, classifier.card, Path())  # type: ignore[arg-type]
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    for precision in precisions:
        logits = Classifier(attached, precision=precision).logits(IMAGES)
        assert logits.dtype == taken[-1].dtype == torch.float32 and logits.shape == (5, 3)
    expected = tapped(classifier._bundle.model, IMAGES, tap)
    assert torch.equal(taken[0], expected) and expected.shape == (5, {"projected": 24, "unprojected": 48}[tap])
    torch.testing.assert_close(taken[1], expected, atol=0.05, rtol=0)
    assert not torch.equal(taken[1], expected)


def test_of_equal_logits_the_first_class_wins(
    classifier: Classifier, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "_classify", lambda images: torch.zeros(len(images), 3))
    (best,) = classifier.classify(pictures[:1], top=2)
    assert [name for name, _ in best] == list(CLASSES[:2])
    assert [value for _, value in best] == pytest.approx([1 / 3, 1 / 3])


def test_a_damaged_picture_stops_all_before_anything_is_computed(
    classifier: Classifier, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unexpected(images: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the model ran")

    monkeypatch.setattr(classifier, "_classify", unexpected)
    pictures[2].write_bytes(pictures[2].read_bytes()[:300])
    with pytest.raises(DataError, match=r"2\.png is damaged"):
        classifier.classify(pictures)
    with pytest.raises(DataError, match=r"no\.png is missing"):
        classifier.classify([*pictures[:2], pictures[0].with_name("no.png")])
    with pytest.raises(DataError, match="32-bit"):
        classifier.classify([*pictures[:2], Image.new("F", (40, 40))])


def test_wrong_arguments(classifier: Classifier, pictures: list[Path]) -> None:
    for single in (str(pictures[0]), pictures[0], Image.new("RGB", (40, 40))):
        with pytest.raises(ConfigError, match="a list of pictures"):
            classifier.classify(single)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="top must be at least 1, got 0"):
        classifier.classify(pictures, top=0)
    for shape in [(3, 32, 32), (2, 3, 33, 32), (2, 1, 32, 32)]:
        with pytest.raises(ConfigError, match=r"must be \(batch, 3, 32, 32\)"):
            classifier.logits(torch.zeros(shape))
    with pytest.raises(DataError, match="32-bit"):
        classifier.preprocess(Image.new("F", (40, 40)))


def test_out_of_memory(classifier: Classifier, pictures: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(images: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(classifier, "_classify", full)
    with pytest.raises(OutOfMemoryError, match="cpu ran out of memory"):
        classifier.classify(pictures)
    with pytest.raises(OutOfMemoryError, match="cpu ran out of memory"):
        classifier.logits(IMAGES)


def test_pictures_that_fit_into_memory_by_twos(
    expected: OnModel, tmp_path: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    classifier = load_adapter(tmp_path / "run", device="cpu", precision="fp32", say=said.append)
    whole = classifier.classify(pictures * 3)
    original = encode.encode_image

    def limited(model: torch.nn.Module, images: torch.Tensor, **options: Any) -> torch.Tensor:
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(model, images, **options)

    monkeypatch.setattr(encode, "encode_image", limited)
    for found, best in zip(classifier.classify(pictures * 3), whole, strict=True):
        assert dict(found) == pytest.approx(dict(best))
    assert said[-1:] == ["out of memory at 9 pictures: going on with 2 at a time"] and len(said) == 1


def test_a_method_without_a_merged_model_still_classifies(
    classifier: Classifier, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Outside:
        tap = classifier._adapted.tap

    classifier._adapted = Outside()  # type: ignore[assignment]
    assert len(classifier.classify(pictures)) == 3
    with pytest.raises(ConfigError, match="outside CLIP's own weights"):
        _ = classifier.model


def test_what_cannot_be_loaded(expected: OnModel, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no adapter at"):
        load_adapter(tmp_path / "nothing")
    with pytest.raises(UnknownNameError, match="precision 'fp33'"):
        load_adapter(tmp_path / "run", precision="fp33")
    with pytest.raises(ConfigError, match="device"):
        load_adapter(tmp_path / "run", device="gpu")


def test_bf16_runs(expected: OnModel, tmp_path: Path) -> None:
    logits = load_adapter(str(tmp_path / "run"), device="cpu", precision="bf16").logits(IMAGES)
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, logits_of(expected), atol=1.0) and not torch.equal(logits, logits_of(expected))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "two or more"),
        (["cat"], "two or more"),
        ("cat", "two or more"),
        (["cat", " "], "is empty"),
        (["cat", "dog", "cat"], "'cat' and 'cat' make the same prompt"),
        (["red panda", "Red_Panda"], "'red panda' and 'Red_Panda' make the same prompt"),
    ],
)
def test_classes_that_cannot_be_told_apart(names: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_classes(names)
