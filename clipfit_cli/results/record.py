"""What is kept of a training and of each of its tests, and their JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, TypeVar

import msgspec

from clipfit_cli.config import NUMBERS_VERSION, RunConfig, TrainingConfig
from clipfit_cli.errors import ConfigError, ResultsError
from clipfit_cli.results.keys import TestIdentity, key_of_test, sha256_of, training_key

if TYPE_CHECKING:
    from clipfit_cli.results.request import RunRequest

SCHEMA_VERSION = 5
"""Of the JSON written here; raised when a field is removed or changes its meaning. A later field has a default."""

Activation = Literal["quickgelu", "gelu"]
Count = Annotated[int, msgspec.Meta(ge=0)]
Pct = Annotated[float, msgspec.Meta(ge=0, le=100)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]

_CHECKSUM = "checksum"
_ADVICE = "Delete the file, or run again with --force"


class OldRecordError(ResultsError):
    """A record of a version whose records are not read any more."""


class _Sealed(Protocol):
    """A dataclass that is kept as JSON under a key of its content."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def key(self) -> str: ...

    @property
    def expected_key(self) -> str:
        """The key that its content gives."""


@dataclass(frozen=True, kw_only=True)
class _Record:
    """What every record says.

    Attributes:
        schema_version: Of the JSON layout.
        numbers_version: `config.NUMBERS_VERSION` of the code that made the numbers.
        key: From `training_key` or `key_of_test`.
        split_sha256: Of the lists of the data set; see `DataSet.split_sha256`.
        split_file_sha256: Of the file that holds them, for anybody to hash; empty where there is none.
        images_sha256: What tells the images from others under the same names; see `DataSet.identify`.
        location: Where the images lay; says nothing about which they are.
        peak_memory_mib: Of the device, or of the process on a CPU; None where the system does not tell.
        device: As torch names it, and its model where known.
        threads: Of torch's operators on a CPU, whose number can move the last bits.
        versions: Per package, as installed.
        created_at: ISO 8601, UTC.
        notes: What a reader of the numbers should know, one sentence each.
        compiled: Whether torch compiled the towers.
        deterministic: Whether a GPU took only ways that always give the same bits.
    """

    schema_version: int = SCHEMA_VERSION
    numbers_version: int = NUMBERS_VERSION
    key: Sha256
    split_sha256: str
    split_file_sha256: str = ""
    images_sha256: str = ""
    location: str = ""
    peak_memory_mib: float | None
    device: str
    threads: Count
    versions: dict[str, str]
    created_at: str
    notes: tuple[str, ...] = ()
    compiled: bool = False
    deterministic: bool = False


@dataclass(frozen=True, kw_only=True)
class Run(_Record):
    """One training, or a model as it is: under which conditions, and what it took.

    Attributes:
        config: What was trained; its templates are those of the data set where none were given.
        num_train_images, num_train_classes: Of the draw; 0 where nothing is trained.
        steps: Optimiser updates.
        skipped_steps: Steps whose gradients overflowed in fp16, so that nothing was updated.
        micro_batch_size: Images that went through the model at a time while training: a whole batch, or less where
            memory ran out. None where nothing is trained.
        final_loss: Mean loss over the last epoch; None where nothing is trained.
        trainable_parameters, total_parameters: Elements.
        activation: Of the model as it ran, whatever the backbone's name says.
        weights_sha256: Of the pre-trained weights.
        train_time_s: Wall-clock seconds.
        adapter_file: Name of the trained tensors' file beside the record; None where it is not kept.
        adapter_sha256: Of that file, kept or not; None where nothing was trained or loaded.
        scored_adapter: Whether the adapter came from elsewhere and nothing was trained here.
        steps_file: Name of the file with the loss and the rate of every step.
        recomputed: Whether the image tower's activations were computed again for the gradient.
        times_resumed: How often the training went on from a checkpoint.
        selected_on: ``val`` where something was chosen by validation images, else ``none``.
        num_val_images: How many those were.
        chosen: What was chosen, by name.
        tried: Every try: name -> value of each, and ``accuracy_pct`` on the validation images.
    """

    config: TrainingConfig
    num_train_images: Count
    num_train_classes: Count
    steps: Count
    skipped_steps: Count = 0
    micro_batch_size: int | None
    final_loss: float | None
    trainable_parameters: Count
    total_parameters: Count
    activation: Activation
    weights_sha256: Sha256
    train_time_s: Seconds
    adapter_file: str | None = None
    adapter_sha256: Sha256 | None = None
    scored_adapter: bool = False
    steps_file: str | None = None
    recomputed: bool = False
    times_resumed: Count = 0
    selected_on: Literal["none", "val"] = "none"
    num_val_images: Count = 0
    chosen: dict[str, Any] = field(default_factory=dict)
    tried: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def expected_key(self) -> str:
        """The key that its content gives."""
        return training_key(
            self.config,
            split_sha256=self.split_sha256,
            images_sha256=self.images_sha256,
            weights_sha256=self.weights_sha256,
            adapter_sha256=self.adapter_sha256 if self.scored_adapter else None,
            numbers_version=self.numbers_version,
        )


@dataclass(frozen=True, kw_only=True)
class Test(TestIdentity, _Record):
    """One test of a training, or of a model as it is; see `TestIdentity` for what it is of.

    Attributes:
        training_key: Of what was tested.
        dataset: Name under which its data set was tested.
        num_classes, num_images: Classes to choose from, and images tested.
        accuracy_pct: Share of right images, 0 to 100.
        macro_f1_pct: Mean F1 of the classes that occur, 0 to 100.
        mean_per_class_accuracy_pct: Mean accuracy of the classes that occur, 0 to 100.
        eval_time_s: Wall-clock seconds; shorter where features are at hand already.
        predictions_file, predictions_sha256: What was predicted for each image; see `results.predictions`.
        logits_file: All logits of every image, where they were asked for.
    """

    __test__ = False  # not a pytest class

    training_key: Sha256
    dataset: str
    num_classes: Count
    num_images: Count
    accuracy_pct: Pct
    macro_f1_pct: Pct
    mean_per_class_accuracy_pct: Pct
    eval_time_s: Seconds
    predictions_file: str
    predictions_sha256: Sha256
    logits_file: str | None = None

    @property
    def identity(self) -> TestIdentity:
        """What it is of."""
        return TestIdentity(**{one.name: getattr(self, one.name) for one in fields(TestIdentity)})

    @property
    def expected_key(self) -> str:
        """The key that its content gives."""
        return key_of_test(self.training_key, self.identity)

    @property
    def place(self) -> str:
        """What was tested, and how, in short: ``dtd/all``, ``dtd/new/blur:3``, ``dtd/all/alpha 0.5``."""
        share = "" if self.interpolation == 1 else f"/alpha {self.interpolation:g}"
        return f"{self.dataset}/{self.subset}" + ("" if self.transform == "identity" else f"/{self.transform}") + share


@dataclass(frozen=True)
class Finished:
    """A run as it was asked for, with the records that answer it.

    Attributes:
        config: What was asked for.
        run: The training.
        tests: In the order of the configuration, by the names that were asked for; a test that is undefined for the
            method is not among them.
        zero_shot: Tests of the same model as it is, of any data set, that are finished beside it.
        request: What was asked for, as it is kept beside the run; None where it is not needed.
    """

    config: RunConfig
    run: Run
    tests: tuple[Test, ...]
    zero_shot: tuple[Test, ...] = ()
    request: RunRequest | None = field(default=None, compare=False)


AnyRecord = TypeVar("AnyRecord", bound="_Sealed")


def to_json(record: _Sealed) -> str:
    """Indented JSON in a stable order of keys, numbers in full precision, ending in a newline, with its checksum.

    Raises:
        ResultsError: A number is not finite, or a field holds what `from_json` would refuse.
    """
    try:
        text = msgspec.json.encode(record)
        if msgspec.json.decode(text, type=type(record)) != record:  # not a number became null
            raise ResultsError("the run cannot be recorded: a number in it is not finite")
    except (msgspec.MsgspecError, TypeError, ValueError, UnicodeEncodeError) as error:
        raise ResultsError(f"the run cannot be recorded: {error}") from error
    plain = json.loads(text)
    return json.dumps({**plain, _CHECKSUM: sha256_of(plain)}, indent=2, allow_nan=False) + "\n"


def from_json(content: bytes, source: Path, kind: type[AnyRecord]) -> AnyRecord:
    """The record that `to_json` wrote. A field that came later may be missing: the record then has its default.

    Args:
        content: The JSON.
        source: Where it was read, for the message.
        kind: What it should be.

    Raises:
        ResultsError: It is no JSON, was changed since it was written, is not of this kind, has another key than its
            content gives, or its schema is not one that is read.
    """
    try:
        plain = msgspec.json.decode(content)
        version = plain.get("schema_version")
        if type(version) is int and version > SCHEMA_VERSION:
            raise ResultsError(
                f"{source} was written by a newer clipfit (schema {version}; this one reads {SCHEMA_VERSION}). "
                "Upgrade clipfit, or use another runs folder."
            )
        if type(version) is int and 0 < version < SCHEMA_VERSION:
            raise OldRecordError(
                f"{source} was made before 0.3.0: run it again; a trained adapter beside it still loads"
            )
        if plain.pop(_CHECKSUM, None) != sha256_of(plain):
            raise ResultsError(f"{source} was changed since it was written: its checksum does not fit. {_ADVICE}.")
        record = msgspec.convert(plain, kind)
        if not set(plain) <= {one.name for one in fields(kind)} or record.key != record.expected_key:
            raise ResultsError(f"{source} does not belong to its key. {_ADVICE}.")
    except (ValueError, RecursionError, AttributeError, TypeError, KeyError, ConfigError) as error:
        raise ResultsError(f"{source} is damaged: {str(error)[:200]}. {_ADVICE}.") from error
    return record
