"""Every default of every run, once, and what a run is: plain values that can be hashed, printed and shipped."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from clipfit_cli.errors import ConfigError, UnknownNameError

NUMBERS_VERSION = 4
"""Raised by every change that can move a result, so that runs of before are not taken for runs of now."""

Subset = Literal["all", "base", "new"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
BnMode = Literal["eval", "train"]
ProtocolName = Literal["few-shot", "base2new", "xdataset", "eval"]
Tap = Literal["image", "projected", "unprojected"]
"""What a method takes of an image: normalised pixels (batch, 3, size, size), the frozen tower's raw features
(batch, embed_dim), or what stands before its projection (batch, width)."""

SUBSETS: tuple[str, ...] = get_args(Subset)
PRECISIONS: tuple[str, ...] = get_args(Precision)
BN_MODES: tuple[str, ...] = get_args(BnMode)

TINY_BACKBONE = "clipfit-tiny"
TINY_PRETRAINED = "builtin"
TEXTURES = "textures"

TOP_CLASSES = 5
"""How many classes a prediction names."""


SMALLEST, LARGEST = 1.1754943508222875e-38, 3.4028234663852886e38
"""Of what is above 0 in float32, in which methods compute; no number of a setting is larger."""

MOST = 10**9
"""The largest whole number of a setting that names no other."""

MOST_VIEWS = 10_000
"""Of each image."""


def ranged(default: Any, least: float, most: float | None = None, *, below: float | None = None) -> Any:
    """Return a field of settings whose numbers have a range; those of other fields have the widest that there is.

    Args:
        default: Value of the field.
        least, most: The ends; `SMALLEST` = what is above 0; None = the largest that there is.
        below: In place of `most`, the first number that is too large.
    """
    return field(default=default, metadata={"range": (least, most, below)})


def check_ranges(settings: Any, whose: str = "") -> None:
    """Check that all numbers of a dataclass are in the range of their field, and can be computed with.

    Args:
        settings: The dataclass.
        whose: Goes before the name of the field in the message, such as ``maple's ``.

    Raises:
        ConfigError: One is not, or is no number.
    """
    for one in fields(settings):
        least, most, below = one.metadata.get("range", (None, None, None))
        value = getattr(settings, one.name)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, bool) or not isinstance(number, int | float):
                continue
            largest, form = (MOST, ",") if isinstance(number, int) else (LARGEST, ".3g")
            low, high = -largest if least is None else least, below or (largest if most is None else most)
            if not low <= number <= high or number == below:
                start = "above 0" if low == SMALLEST and not 0 < number < low else f"at least {low:{form}}"
                end = f"{'below' if below else 'at most'} {high:{form}}"
                raise ConfigError(f"{whose}{one.name} must be {start} and {end}, got {number}")


def _refuse(*checks: tuple[bool, str]) -> None:
    """Raise the first message whose condition holds."""
    for is_wrong, message in checks:
        if is_wrong:
            raise ConfigError(message)


@dataclass(frozen=True)
class ModelConfig:
    """Which CLIP: an architecture and its weights.

    Attributes:
        backbone: open_clip's architecture name, or ``clipfit-tiny``; or the same text as `pretrained`.
        pretrained: open_clip's weight tag, the path of a checkpoint file, or a model with its architecture: a folder
            of open_clip's or transformers', or ``hf:org/name``.
        bn: BatchNorm of ResNet towers while training: ``eval`` keeps the running statistics, ``train`` uses
            batch statistics and lets them drift, as the official code does.
    """

    backbone: str = "ViT-B-16"
    pretrained: str = "openai"
    bn: BnMode = "eval"

    def __post_init__(self) -> None:
        if self.bn not in BN_MODES:
            raise UnknownNameError("BatchNorm mode", self.bn, BN_MODES)

    def found_at(self, backbone: str | None, pretrained: str | None) -> ModelConfig:
        """Return the model where it is found now: one that brings its architecture is both names at once.

        Args:
            backbone, pretrained: As typed; None = as it is.
        """
        if self.backbone == self.pretrained:
            backbone, pretrained = backbone or pretrained, pretrained or backbone
        return replace(self, backbone=backbone or self.backbone, pretrained=pretrained or self.pretrained)


@dataclass(frozen=True)
class Execution:
    """How a run is computed: moves speed, memory and rounding, so it does not say which run it is.

    Attributes:
        compile: Whether torch compiles the towers when they first run.
        recompute: Whether the image tower's activations are computed again for the gradient instead of being kept.
        deterministic: Whether a GPU takes those ways alone that always give the same bits; a CPU has no others.
    """

    compile: bool = False
    recompute: bool = False
    deterministic: bool = False


@dataclass(frozen=True)
class Keep:
    """What is kept of a run beside its records.

    Attributes:
        adapter: The tuned tensors.
        logits: All logits of every test.
        nothing_before: Nothing that was finished before: all of it is run again.
        tensorboard: A log of curves and metrics.
        checkpoint_every: Of a training on its way, after so many epochs, or hundreds of steps; None = after each, but
            at most once a minute and for a hundredth of the time.
    """

    adapter: bool = True
    logits: bool = False
    nothing_before: bool = False
    tensorboard: bool = False
    checkpoint_every: int | None = None


@dataclass(frozen=True)
class Recipe:
    """How one stage of a method is trained; the defaults are CoOp's and CLIPFit's (Dassl.pytorch c61a1b57).

    Attributes:
        optimiser: Plain `momentum` is for ``sgd``; `betas` and `eps` for ``adam`` (decay in the gradient) and ``adamw``
            (decay beside it).
        lr: Peak learning rate.
        momentum, weight_decay, eps, betas: Of the optimiser; all of them act on trained tensors only.
        epochs: Passes over the training images.
        steps: Optimiser updates, in place of epochs; 0 = no step is made: the stage is the method's own preparation.
        batch_size: Images per step; None = all.
        drop_last: Whether a last partial batch is dropped where there is a whole one.
        sampler: ``shuffled``, or ``one_class``: a batch is of one class, what is left of a class is dropped; where no
            class fills a batch, as ``shuffled``.
        decay: Cosine ``epoch`` by epoch, ``step`` by step, or ``none``.
        decay_period: Of the cosine, in epochs or steps; None = the whole length.
        min_lr: Where the cosine ends.
        warmup_epochs, warmup_lr: Constant warm-up; the cosine starts at its top afterwards.
        crop_scale: Smallest and largest share of an image's area in a random crop; None = the test's crop, no flip.
        views: Stored crops of each image; None = a fresh crop each time.
        view_use: Of stored crops, step i takes number i + 1, over and over (``cycle``), all of them are images of their
            own (``pool``), or their features are averaged (``mean``).
    """

    optimiser: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = ranged(0.002, SMALLEST)
    momentum: float = ranged(0.9, 0, below=1)
    weight_decay: float = ranged(5e-4, 0)
    eps: float = ranged(1e-8, SMALLEST)
    betas: tuple[float, float] = ranged((0.9, 0.999), 0, below=1)
    epochs: int = ranged(100, 1)
    steps: int | None = ranged(None, 0)
    batch_size: int | None = ranged(32, 1)
    drop_last: bool = True
    sampler: Literal["shuffled", "one_class"] = "shuffled"
    decay: Literal["epoch", "step", "none"] = "epoch"
    decay_period: int | None = ranged(None, 1)
    min_lr: float = ranged(0.0, 0)
    warmup_epochs: int = ranged(1, 0)
    warmup_lr: float = ranged(1e-5, 0)
    crop_scale: tuple[float, float] | None = (0.08, 1.0)
    views: int | None = ranged(None, 1, MOST_VIEWS)
    view_use: Literal["cycle", "pool", "mean"] = "cycle"

    def __post_init__(self) -> None:
        check_ranges(self)
        low, high = self.crop_scale or (1, 1)
        _refuse(
            (not 0 < low <= high <= 1, f"crop_scale must be two shares of an area, such as 0.5-1, got {low}-{high}"),
            (
                self.views is not None and self.crop_scale is None and self.views > 1,
                "views without crops are all alike",
            ),
        )

    @property
    def makes_steps(self) -> bool:
        """Whether an optimiser makes steps."""
        return self.steps != 0


@dataclass(frozen=True)
class Conditions:
    """Under which a method is trained: what its presets may depend on.

    Attributes:
        protocol: Of half of the classes ``base2new``, whatever the table is.
        dataset: That is trained on.
        shots: Training images per class; None = all.
    """

    protocol: ProtocolName = "few-shot"
    dataset: str = ""
    shots: int | None = 16


@dataclass(frozen=True)
class TestSet:
    """One evaluation: a data set, the class group of it that is tested, and how.

    Attributes:
        dataset, subset: Which.
        alpha: Share of what was learnt that is in the weights, 0 to 1; None = all of it, as it was trained.
        shift: What is done to the images, and its severity, such as ``blur:3``; ``identity`` = nothing.
    """

    __test__ = False  # not a pytest class

    dataset: str
    subset: Subset = "all"
    alpha: float | None = None
    shift: str = "identity"

    def __post_init__(self) -> None:
        _refuse(
            (
                self.alpha is not None and not 0 <= self.alpha <= 1,
                f"alpha is from 0 (zero-shot) to 1 (as trained), got {self.alpha}",
            )
        )

    @property
    def interpolation(self) -> float:
        """The share, whether it was asked for or not."""
        return 1.0 if self.alpha is None else float(self.alpha) + 0.0  # never -0.0, which has a key of its own


@dataclass(frozen=True)
class OwnDataSet:
    """Where a data set of the user's own is.

    Attributes:
        name: What tables, records and run folders call it; says nothing about where it lies.
        kind: Which reader reads it.
        location: Absolute path, shard pattern or name on the hub.
        class_names: Instead of those that the data set has: in label order, or by its own ones; None = its own.
        all_test: Whether all images are to be tested where no test images are given: nothing trains on it.
        class_names_file, class_names_sha256: File that the class names were read from, and what it held; empty where
            none was.
        trained_names: Class names that an adapter was trained with, in label order or by the data set's own ones: they
            are taken where no others are given and the data set has as many classes, or all that are named.
    """

    name: str
    kind: Literal["folder", "table", "hf", "wds"]
    location: str
    class_names: tuple[str, ...] | dict[str, str] | None = None
    all_test: bool = False
    class_names_file: str = field(default="", compare=False)
    class_names_sha256: str = field(default="", compare=False)
    trained_names: tuple[str, ...] | dict[str, str] | None = None


@dataclass(frozen=True)
class TrainingConfig:
    """One training, or the use of a model as it is: what decides its numbers, beside data and weights themselves.

    Attributes:
        dataset, subset: What is trained on. For a method that does not train, what is tested.
        shots: Training images per class; None = all; 0 = nothing is trained.
        seed: Decides the draw, the batch order and the augmentation.
        method: The method's name.
        settings: The method's resolved settings; one that came later than others is left out at its default.
        model: Backbone and weights.
        stages: How it is trained, stage by stage; empty where nothing is trained.
        precision: Of the towers; resolved before anything is computed: fp32, bf16 or fp16.
        templates: Prompt templates of every data set of the run; empty = each data set's own.
        reference_templates: Whether each data set's own are those of the method's reference, not the protocol's.
        val_shots: Validation images per class that a method selects on; None = the protocol's, min(shots, 4), or
            nothing is selected.
        tune: Whether the method's grid is tried out, and the best try on the validation images taken.
        origin: Distribution and version that brings the method; None = this one.
    """

    dataset: str
    subset: Subset
    shots: int | None
    seed: int
    method: str
    settings: dict[str, Any]
    model: ModelConfig
    stages: tuple[Recipe, ...]
    precision: Precision
    templates: tuple[str, ...] = ()
    reference_templates: bool = False
    val_shots: int | None = None
    tune: bool = False
    origin: str | None = None

    def __post_init__(self) -> None:
        _refuse((self.shots is not None and self.shots < 0, f"shots must be at least 1, got {self.shots}"))


@dataclass(frozen=True, kw_only=True)
class RunConfig(TrainingConfig):
    """One training (or none) and the evaluations that follow it.

    Attributes:
        protocol: Which table the run belongs to.
        tests: Where the result is tested.
        adapter: Path of a saved adapter that is scored instead of training one.
        typed: Settings of the method and fields of its recipe as they were typed; what they come to stands above.
    """

    protocol: ProtocolName
    tests: tuple[TestSet, ...]
    adapter: str | None = None
    typed: dict[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse((not self.tests, "a run needs at least one test set"))


@dataclass(frozen=True)
class MethodChoice:
    """A method and the settings a user gave it by hand, as typed (``beta`` -> ``"2"``)."""

    name: str
    overrides: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """What a user asked for; the protocols turn it into runs.

    Attributes:
        datasets: Names; for `xdataset` the single source.
        methods: In the order of the table.
        shots: Each given number is a series of runs; None = all images.
        seeds: At least one, each once.
        epochs, batch_size, lr: For every stage that makes steps; None = the method's own.
        val_shots, tune: See `TrainingConfig`.
        targets: Test data sets of `xdataset`.
        subset: Class group for `few-shot` runs.
        templates: Prompt templates for every data set; empty = each data set's own.
        shifts: Targets that are the source's classes in another domain, beside those that are known.
    """

    datasets: tuple[str, ...]
    methods: tuple[MethodChoice, ...]
    shots: tuple[int | None, ...] = (16,)
    seeds: tuple[int, ...] = (1, 2, 3)
    model: ModelConfig = field(default_factory=ModelConfig)
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    val_shots: int | None = None
    tune: bool = False
    precision: Precision = "auto"
    subset: Subset = "all"
    targets: tuple[TestSet, ...] = ()
    templates: tuple[str, ...] = ()
    shifts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        seeds, shots = (",".join(map(str, given)) for given in (self.seeds, self.shots))
        _refuse(
            (not self.datasets, "no data set was given"),
            (not self.seeds, "no seed was given; expected whole numbers such as 1,2,3"),
            (len(set(self.seeds)) != len(self.seeds), f"a seed is given twice: {seeds}"),
            (any(seed < 0 for seed in self.seeds), f"seeds must be 0 or more, got {seeds}"),
            (any(one is not None and one < 1 for one in self.shots), f"shots must be at least 1, got {shots}"),
            (self.val_shots is not None and self.val_shots < 1, f"val_shots must be at least 1, got {self.val_shots}"),
        )
        if self.subset not in SUBSETS:
            raise UnknownNameError("subset", self.subset, SUBSETS)
        if self.precision not in PRECISIONS:
            raise UnknownNameError("precision", self.precision, PRECISIONS)
