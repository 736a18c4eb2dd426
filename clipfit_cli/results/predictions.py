"""What was predicted for every image of a test: enough for every metric of the top class and of its confidence."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfit_cli.errors import ResultsError
from clipfit_cli.files import read_bytes
from clipfit_cli.results.record import Run, Test
from clipfit_cli.results.store import TESTS_FOLDER, RunStore

Floats = NDArray[np.float64]
Labels = NDArray[np.int32]

_MOST_BYTES = 2**31
_ROUNDING = 1e-6
_TYPES = {"label": np.int32, "predicted": np.int32}
"""Of the tensors that are not float64."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """One value an image, in the order of the test list.

    Attributes:
        label: The image's class, (num_images,).
        predicted: The most probable class; of tied ones, the first.
        label_log_probability, predicted_log_probability: Natural logarithms of the softmax.
        sum_squared_probabilities: Over all classes; with the label's probability it gives the Brier score.
    """

    label: Labels
    predicted: Labels
    label_log_probability: Floats
    predicted_log_probability: Floats
    sum_squared_probabilities: Floats


@dataclass(frozen=True)
class TestList:
    """What predictions are of.

    Attributes:
        sha256: Of the ordered list of images.
        class_names: In label order; none where the file was written before names were kept.
    """

    __test__ = False  # not a pytest class

    sha256: str
    class_names: tuple[str, ...] = ()

    def name_of(self, label: int) -> str:
        """The name of a class; its number where names are not kept."""
        return self.class_names[label] if self.class_names else str(label)


ReadPredictions = Callable[[Run, Test], Predictions]
"""Finds the predictions of a finished test; see `StoredPredictions`."""


class StoredPredictions:
    """Reads the predictions of finished tests from a runs folder, each file once."""

    def __init__(self, store: RunStore, *, beside: Iterable[Path] = ()) -> None:
        """Nothing is read before it is asked for.

        Args:
            store: The runs folder.
            beside: Folders of trainings elsewhere, which tests of their adapters lie in.
        """
        self._store = store
        self._beside = tuple(beside)
        self._kept: dict[str, Predictions] = {}

    def __call__(self, run: Run, test: Test) -> Predictions:
        """The predictions of a test.

        Raises:
            ResultsError: Their file is missing, or is not what was recorded.
        """
        if test.key not in self._kept:
            own = self._store.folder(run.key, run.config, is_adapter=run.scored_adapter)
            there = (one for one in self._beside if (one / TESTS_FOLDER / test.predictions_file).exists())
            self._kept[test.key] = predictions_of(next(there, own), test)[0]
        return self._kept[test.key]


def to_bytes(
    arrays: Mapping[str, NDArray[np.generic]], *, list_sha256: str = "", class_names: Sequence[str] | None = None
) -> bytes:
    """Return named arrays, such as those of `Predictions`, as safetensors; the same arrays give the same bytes.

    Args:
        arrays: Of predictions, 32 bytes an image.
        list_sha256: Of the ordered list of images that they are of, which the file names in its head.
        class_names: In label order, for the head, too.
    """
    from safetensors.numpy import save

    content = save({name: np.ascontiguousarray(values) for name, values in arrays.items()})
    about = {"list_sha256": list_sha256}
    if class_names is not None:
        about["class_names"] = json.dumps(list(class_names))
    end = 8 + int.from_bytes(content[:8], "little")
    # safetensors itself would write these texts in a random order
    head = json.dumps({"__metadata__": about, **json.loads(content[8:end])}, separators=(",", ":")).encode()
    head = head.ljust(-len(head) // 8 * -8)
    return len(head).to_bytes(8, "little") + head + content[end:]


def predictions_of(folder: Path, test: Test) -> tuple[Predictions, TestList]:
    """Return the predictions of a test, and what they are of.

    Args:
        folder: Of the training.
        test: Finished there.

    Raises:
        ResultsError: The file is missing, damaged, or not the one that was recorded.
    """
    path = folder / TESTS_FOLDER / test.predictions_file
    found, about = _read(path, test.predictions_sha256)
    count, most = len(found.label), max(found.label.max(), found.predicted.max())
    if count != test.num_images or most >= test.num_classes:
        raise ResultsError(
            f"{path} has {count} images and labels up to {most}, where its record has {test.num_images} images of "
            f"{test.num_classes} classes. {_advice(path)}"
        )
    if len(about.class_names) != test.num_classes:
        about = TestList(about.sha256)
    return found, about


def read_predictions(path: Path) -> tuple[Predictions, str]:
    """Return the predictions in a file, and the hash of the ordered list of images that they are of.

    Raises:
        ResultsError: The file is missing, damaged or of another kind.
    """
    found, about = _read(path)
    return found, about.sha256


def _read(path: Path, sha256: str | None = None) -> tuple[Predictions, TestList]:
    """Return what is in a file, which must have a sha256; None = any."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        content = read_bytes(path, _MOST_BYTES)
    except OSError as error:
        reason = error.strerror or error
        raise ResultsError(f"{path} cannot be read as predictions ({reason}). {_advice(path)}") from error
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise ResultsError(
            f"{path} was changed since it was written: its sha256 is not the recorded one. {_advice(path)}"
        )
    try:
        arrays = load(content)
        found = Predictions(**{field.name: _checked(field.name, arrays[field.name]) for field in fields(Predictions)})
        if len({len(values) for values in vars(found).values()}) != 1:
            raise ValueError("its tensors have several lengths")
        about = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        return found, TestList(about["list_sha256"], _names_in(about))
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise ResultsError(f"{path} cannot be read as predictions ({error}). {_advice(path)}") from error


def _checked(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Return a tensor of predictions."""
    kind = np.dtype(_TYPES.get(name, np.float64))
    if values.ndim != 1 or values.dtype != kind:
        raise ValueError(f"{name} is {values.dtype} {values.shape}, not {kind} of one axis")
    if not values.size or not np.isfinite(values).all() or (kind == np.int32 and (values < 0).any()):
        raise ValueError(f"{name} is empty, or holds a value that cannot be")
    if name.endswith("log_probability") and values.max() > _ROUNDING:
        raise ValueError(f"{name} holds a logarithm above 0")
    return values


def _names_in(about: Mapping[str, str]) -> tuple[str, ...]:
    names = json.loads(about.get("class_names", "[]"))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("its class names are no list of texts")
    return tuple(names)


def _advice(path: Path) -> str:
    return f"Delete {path.stem}.json beside it, and the command that made the test makes it again"
