"""The contract of a method; torch is not imported before a method is attached."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from math import prod
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

from clipfit_cli.config import Conditions, Recipe, Tap, check_ranges, ranged
from clipfit_cli.errors import UneditedWeights

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from clipfit_cli.models.bundle import ClipBundle

Family = Literal["features", "weights", "prompts", "none"]
"""What a method learns: something behind frozen features, CLIP's own weights, what stands in the prompts; nothing."""

FAMILIES: tuple[str, ...] = get_args(Family)


@dataclass(frozen=True, eq=False)
class Group:
    """Parameters that train at one rate.

    Attributes:
        parameters: Float32.
        factor: On the learning rate, except in warm-up, whose rate is common.
    """

    parameters: Sequence[nn.Parameter]
    factor: float = 1.0


class Source(Protocol):
    """Images of a stage as the method takes them; training images, or validation images, which are never augmented.

    Attributes:
        steps_per_epoch: Batches in one pass.
    """

    steps_per_epoch: int

    def batch(self, tap: Tap, step: int) -> tuple[Tensor, Tensor]:
        """Return the inputs (batch, ...) of a tap and labels, int64 (batch,), both on the device.

        Args:
            tap: What the method takes.
            step: Of the stage, from 0; asked for one after the other.
        """

    def everything(self, tap: Tap) -> tuple[Tensor, Tensor]:
        """Return features of all images and their labels, both on the device, image after image in the draw's order.

        With the recipe's ``view_use`` ``mean``, of each image the mean of its views' raw features; with ``pool``, view
        after view, so that the labels are repeated; else one view.

        Args:
            tap: ``projected`` (num_rows, embed_dim) or ``unprojected`` (num_rows, width).
        """


class Step(NamedTuple):
    """Which loss comes next: all that a random number of a method may depend on.

    Attributes:
        seed, stage, epoch, step: Of the run; the step counts from 0 within its stage.
        first: Place, in its batch, of the first image that follows.
        batch_size: Of the whole batch, of which memory may take a part at a time.
    """

    seed: int
    stage: int
    epoch: int
    step: int
    first: int
    batch_size: int

    def generator(self, *names: str | int, device: torch.device) -> torch.Generator:
        """Return a generator that depends on seed, stage, epoch, step and names alone, not on the part of a batch."""
        import torch

        words = repr((self.seed, self.stage, self.epoch, self.step, *names)).encode()
        return torch.Generator(device).manual_seed(int.from_bytes(hashlib.sha256(words).digest()[:7], "big"))


class Adapted(Protocol):
    """A model under a method: all that training, testing and saving need to know; see also `Hooks`.

    It owns whatever it changes; the bundle it was made from stays as it was.
    """

    @property
    def tap(self) -> Tap:
        """What `loss` and classifiers take; of a frozen tower, raw features, not scaled to length 1."""

    def parameters(self) -> Sequence[Group]:
        """Return what the optimiser of the current stage sets; nothing for a method without steps."""

    def loss(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch (scalar, float32) and its detached terms by name.

        Args:
            inputs: (batch, ...), of the tap.
            labels: int64 (batch,), indices into the class names of the training.
        """

    def classifier(self, class_names: Sequence[str], templates: Sequence[str]) -> Callable[[Tensor], Tensor]:
        """Return what gives float32 logits (batch, num_classes) of inputs (batch, ...) of the tap, without gradients.

        It holds until the next step of a training.

        Args:
            class_names: In label order; the training's, or others.
            templates: One or more with one ``{}`` each.

        Raises:
            UndefinedClasses: The method has no answer for these classes.
        """

    def state(self) -> dict[str, Tensor]:
        """Return copies, on the CPU, of all that training changed or chose, by name."""

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave.

        Raises:
            CheckpointError: Names or shapes do not fit this method on this model.
        """


class Hooks:
    """What an `Adapted` may do besides; to inherit from it gives hooks that do nothing."""

    def begin(self, stage: int) -> None:
        """Get ready for a stage, counted from 0; torch's generator has been started from the seed and the stage."""

    def prepare(self, train: Source, val: Source | None) -> None:
        """Learn from all images at once, at the beginning of the stage; what is chosen is chosen on `val`.

        Args:
            train: Of the stage.
            val: None where nothing is selected.
        """

    def at(self, step: Step) -> None:
        """Be told which loss comes next."""

    def before_parts(self, parts: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Look at a whole batch, before the first loss, where memory takes it part by part: inputs and labels of each.

        What a loss asks of all images together has to be found here, without gradients.
        """

    def after_epoch(self, epoch: int, epochs: int) -> None:
        """Do what is done behind an epoch, counted from 1, of so many."""

    def calibrate(self, val: Source) -> dict[str, float]:  # noqa: ARG002
        """Choose, behind the last stage, what is chosen on validation images, and return it by name."""
        return {}

    def tried(self) -> dict[str, list[float]]:
        """Return every try of `prepare` and `calibrate`: name -> value of each; ``accuracy_pct`` is on validation."""
        return {}

    def drifting_buffers(self) -> list[Tensor]:
        """Return what `loss` itself changes, such as running statistics."""
        return []

    def training_state(self) -> dict[str, Tensor]:
        """Return what later steps or hooks need of the steps so far, such as averages, by name.

        Not of it are what trains and what drifts, which a checkpoint holds anyway, and what `begin` and `prepare` make:
        a training that goes on calls both again, of the stages that are finished, too.
        """
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `training_state` gave, on the CPU, behind `begin` and `prepare` of the same stage.

        Raises:
            CheckpointError: It is not of this method.
        """


def hooks_of(adapted: Adapted) -> Hooks:
    """Return the hooks of an `Adapted`; those that it lacks do nothing."""
    if isinstance(adapted, Hooks):
        return adapted
    found = Hooks()
    for name in vars(Hooks):
        if not name.startswith("_") and hasattr(adapted, name):
            setattr(found, name, getattr(adapted, name))
    return found


@runtime_checkable
class Mergeable(Protocol):
    """What an `Adapted` is besides, where CLIP's own weights hold all that new classes are told apart by."""

    def merged_model(self) -> nn.Module:
        """Return the model with what was learnt in its weights; it gives the same logits by itself."""


@runtime_checkable
class Interpolating(Mergeable, Protocol):
    """What a `Mergeable` is besides, where it tells the training's classes by more than those weights."""

    def interpolated(self, alpha: float) -> Adapted:
        """Return the same with a share of what was learnt, strictly between 0 and 1; it stays as it is itself."""


def mergeable(adapted: Adapted, info: MethodInfo, what: str) -> Mergeable:
    """Return a method that edits CLIP's own weights as such.

    Args:
        adapted: The method on a model.
        info: What is known of it.
        what: Cannot be done otherwise, such as ``inspect``.

    Raises:
        UneditedWeights: It edits none.
    """
    if not isinstance(adapted, Mergeable):
        raise UneditedWeights(
            f"{what} is for methods that edit CLIP's own weights, and {info.name} leaves them as they are; instead: "
            f"{info.summary.split(', cross-entropy')[0]}"
        )
    return adapted


class Trained(NamedTuple):
    """One tensor that training sets.

    Attributes:
        name: Of CLIP's parameter, or the method's own.
        shape: Of the tensor.
        tower: Whose it is; None = what stands behind both.
    """

    name: str
    shape: tuple[int, ...]
    tower: Literal["image", "text"] | None

    @property
    def num_values(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)


Attach = Callable[["ClipBundle", Sequence[str], Sequence[str], Any], Adapted]
"""(bundle, class names, prompt templates, settings) -> Adapted."""

Describe = Callable[["nn.Module", Any, int, int], Sequence[Trained]]
"""(model, maybe on the meta device; settings; number of classes; of training images) -> what trains."""


class Factor(NamedTuple):
    """Something of a method that can be varied.

    Attributes:
        levels: Each some settings, as they are typed.
        selects: Whether the levels differ in which numbers train, and in nothing else.
    """

    levels: Sequence[Mapping[str, str]]
    selects: bool = True


Factors = Callable[["nn.Module"], Mapping[str, Factor]]
"""open_clip model, maybe on the meta device -> factors by name."""

_LATER = "later"


def later(default: Any, *ends: float) -> Any:
    """Return a field of settings that came when runs without it were recorded: at its default, it is in no key.

    Args:
        default: Value of the field.
        ends: Of its range, if any; see `config.ranged`.
    """
    limits = ranged(default, *ends).metadata if ends else {}
    return field(default=default, metadata={_LATER: True, **limits})


class Settings:
    """Settings of a method, a frozen dataclass: each number is in its range, see `config.ranged`."""

    def __post_init__(self) -> None:
        check_ranges(self, f"{type(self).__module__.rpartition('.')[2].replace('_', '-')}'s ")


def recorded(settings: Any) -> dict[str, Any]:
    """Return settings as configurations, records and keys have them: without the `later` ones that are at a default."""
    plain = asdict(settings)
    silent = [one for one in fields(settings) if one.metadata.get(_LATER) and plain[one.name] == one.default]
    return {name: value for name, value in plain.items() if name not in {one.name for one in silent}}


@dataclass(frozen=True, kw_only=True)
class MethodInfo:
    """What is known of a method before anything is loaded.

    Attributes:
        name: As a user types it.
        summary: One line: what trains, with which loss.
        source: Paper, and the reference code at a commit where there is one.
        family: What it learns.
        settings: The dataclass of its settings; every field has a default.
        attach: Makes the `Adapted`.
        recipe: Conditions and settings -> the recipe of each stage; nothing where nothing is trained.
        describe: Tells what trains. It raises ModelError where a tower cannot be served.
        presets: Conditions -> settings that the source fixes there.
        grid: Conditions and settings -> what ``--tune`` tries, each some settings and fields of the recipe; nothing
            where it chooses without training again, or has nothing to choose.
        templates: Data set -> prompt templates of the reference; None = those of the protocol.
        new_classes: False where the method has no answer for other classes than those it was trained on; or settings ->
            whether it has.
        selects: When it selects on validation images: ``never``, ``always``, or with ``--tune``.
        transductive: Whether it learns from test images, without their labels.
        starts_at_zero_shot: Whether the logits before the first step are the zero-shot ones.
        factors: What `clipfit sensitivity` varies, one factor at a time; nothing where there is none.
        preset_source: Where recipe and presets of single data sets come from.
        origin: Distribution and version that brings it; None = this one.
    """

    name: str
    summary: str
    source: str
    family: Family
    settings: type[Any]
    attach: Attach
    recipe: Callable[[Conditions, Any], tuple[Recipe, ...]]
    describe: Describe
    presets: Callable[[Conditions], dict[str, Any]] = lambda _: {}
    grid: Callable[[Conditions, Any], Sequence[Mapping[str, Any]]] = lambda *_: ()
    templates: Callable[[str], tuple[str, ...]] | None = None
    new_classes: bool | Callable[[Any], bool] = True
    selects: Literal["never", "tune", "always"] = "never"
    transductive: bool = False
    starts_at_zero_shot: bool = True
    factors: Factors = lambda _: {}
    preset_source: str = ""
    origin: str | None = None

    def knows_new_classes(self, settings: Any) -> bool:
        """Whether there is an answer for other classes than those of the training."""
        return self.new_classes if isinstance(self.new_classes, bool) else self.new_classes(settings)

    def all_settings(self, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of a record with those that it leaves out; see `later`."""
        return asdict(self.settings(**recorded))

    @property
    def trains(self) -> bool:
        """Whether anything is learnt from images."""
        return bool(self.recipe(Conditions(), self.settings()))
