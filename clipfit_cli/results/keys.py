"""When two trainings, or two tests, are the same: what decides their numbers, and the keys that are made of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any

import msgspec

from clipfit_cli.config import NUMBERS_VERSION, ModelConfig, Precision, Recipe, Subset, TrainingConfig
from clipfit_cli.errors import ResultsError

ALWAYS_HASHED: dict[type, tuple[str, ...]] = {
    TrainingConfig: (
        *("subset", "shots", "seed", "method", "settings", "model", "stages", "precision", "templates"),
        *("reference_templates", "val_shots", "tune", "origin"),
    ),
    ModelConfig: ("backbone", "pretrained", "bn"),
    Recipe: (
        *("optimiser", "lr", "momentum", "weight_decay", "eps", "betas", "epochs", "steps", "batch_size", "drop_last"),
        *("sampler", "decay", "decay_period", "min_lr", "warmup_epochs", "warmup_lr", "crop_scale", "views"),
        "view_use",
    ),
}
"""The fields that were in the first keys. One that came later is hashed only where it is not at its default, so that
the keys of before hold; the data set's name is never hashed."""


@dataclass(frozen=True, kw_only=True)
class TestIdentity:
    """What a test is of: everything that can move its numbers, beside what is tested. No name and no place is in it.

    Attributes:
        subset: Class group whose images are tested among its own classes.
        templates: Prompts of its classes.
        transform: What was done to the images beyond preparing them; ``identity`` = nothing.
        interpolation: Share of what was learnt that is in the weights; 1 = all.
        precision: Of the towers.
        split_sha256: Of the lists and class names of the data set.
        images_sha256: Of the test images.
        numbers_version: Of the code that makes the numbers.
    """

    __test__ = False  # not a pytest class

    subset: Subset
    templates: tuple[str, ...]
    transform: str = "identity"
    interpolation: float = 1.0
    precision: Precision
    split_sha256: str
    images_sha256: str = ""
    numbers_version: int = NUMBERS_VERSION

    @property
    def is_plain(self) -> bool:
        """Whether it is of the images as they are, and of all that was learnt."""
        return (self.transform, self.interpolation) == ("identity", 1.0)

    @property
    def images(self) -> tuple[str, str, str]:
        """What tells the tested images and the classes to choose from: digests of lists and images, and class group."""
        return self.split_sha256, self.images_sha256, self.subset


_FIRST_OF_A_TEST = (
    *("numbers_version", "subset", "templates", "precision", "split_sha256", "images_sha256"),
    *("transform", "interpolation"),
)
"""As `ALWAYS_HASHED`, of tests."""


def training_key(
    config: TrainingConfig,
    *,
    split_sha256: str,
    images_sha256: str,
    weights_sha256: str,
    adapter_sha256: str | None = None,
    numbers_version: int = NUMBERS_VERSION,
) -> str:
    """SHA-256 (64 hex digits) of everything that can move what is learnt.

    Not in: names (a data set is told by its lists and images, a model's folder by its weights) and places, the device,
    the versions of packages, and what came later than `ALWAYS_HASHED` and is at its default. The tag of published
    weights is in beside their hash, because it also decides on activation and normalisation.

    Args:
        config: Resolved, its templates those of the data set where none were given.
        split_sha256, images_sha256: Of the data set that is trained on, and of the images that are.
        weights_sha256: Of the pre-trained weights.
        adapter_sha256: Of an adapter from elsewhere; None where a training makes one.
        numbers_version: Of the code that makes the numbers.

    Raises:
        ResultsError: A setting is no JSON value or not finite.
    """
    plain = _hashed(config, TrainingConfig)
    plain["model"] = _hashed(config.model, ModelConfig)
    plain["stages"] = [_hashed(stage, Recipe) for stage in config.stages]
    if config.model.backbone == config.model.pretrained:
        plain["model"]["backbone"] = plain["model"]["pretrained"] = "a folder"
    elif any(mark in config.model.pretrained for mark in "/\\."):
        plain["model"]["pretrained"] = "a file"
    return sha256_of([numbers_version, plain, split_sha256, images_sha256, weights_sha256, adapter_sha256])


def key_of_test(training: str, identity: TestIdentity) -> str:
    """SHA-256 (64 hex digits) of everything that can move the numbers of a test.

    Args:
        training: Key of what is tested.
        identity: What the test is of.
    """
    plain = msgspec.to_builtins(identity)
    numbers_version, *others, interpolation = (plain.pop(name) for name in _FIRST_OF_A_TEST)
    later = {name: value for name, value in plain.items() if value != _default_of(TestIdentity, name)}
    return sha256_of([numbers_version, training, *others, float(interpolation), *([later] if later else [])])


def sha256_of(plain: Any) -> str:
    """SHA-256 (64 hex digits) of a JSON value, whatever the order of keys in it.

    Raises:
        ResultsError: It is none, or a number in it is not finite.
    """
    try:
        text = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ResultsError(f"the run cannot be identified: {error}") from error
    return hashlib.sha256(text.encode()).hexdigest()


def _hashed(config: object, kind: type) -> dict[str, Any]:
    """The fields of a configuration that its key is made of, as plain values."""
    plain: dict[str, Any] = msgspec.to_builtins({one.name: getattr(config, one.name) for one in fields(kind)})
    plain.pop("dataset", None)
    return {
        name: value for name, value in plain.items() if name in ALWAYS_HASHED[kind] or value != _default_of(kind, name)
    }


def _default_of(kind: type, name: str) -> Any:
    """The default of a field as a plain value; `MISSING` where it has none."""
    declared: Field[Any] = kind.__dataclass_fields__[name]  # type: ignore[attr-defined]
    default = declared.default if declared.default_factory is MISSING else declared.default_factory()
    return default if default is MISSING else msgspec.to_builtins(default)
