"""What was predicted for every image of a test: enough for every metric of the top class and of its confidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipfit_cli.errors import ResultsError

Floats = NDArray[np.float64]
Labels = NDArray[np.int32]


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


def to_bytes(arrays: Mapping[str, NDArray[np.generic]], *, list_sha256: str = "") -> bytes:
    """Return named arrays, such as those of `Predictions`, as safetensors.

    Args:
        arrays: Of predictions, 32 bytes an image.
        list_sha256: Of the ordered list of images that they are of, which the file names in its head.
    """
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(values) for name, values in arrays.items()}, {"list_sha256": list_sha256})


def read_predictions(path: Path) -> tuple[Predictions, str]:
    """Return the predictions in a file, and the hash of the ordered list of images that they are of.

    Raises:
        ResultsError: The file is missing, damaged or of another kind.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            values = {field.name: file.get_tensor(field.name) for field in fields(Predictions)}
            list_sha256 = (file.metadata() or {})["list_sha256"]
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ResultsError(
            f"{path} cannot be read as predictions ({error}); run the test again with --force"
        ) from error
    return Predictions(**values), list_sha256
