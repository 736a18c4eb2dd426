"""Every default of every run, once, and what a run is: plain values that can be hashed, printed and shipped."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from clipfit_cli.errors import ConfigError, UnknownNameError

NUMBERS_VERSION = 3
"""Raised by every change that can move a result, so that runs of before are not taken for runs of now."""

Subset = Literal["all", "base", "new"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
BnMode = Literal["eval", "train"]
ProtocolName = Literal["few-shot", "base2new", "xdataset", "eval"]

SUBSETS: tuple[str, ...] = get_args(Subset)
PRECISIONS: tuple[str, ...] = get_args(Precision)
BN_MODES: tuple[str, ...] = get_args(BnMode)

TINY_BACKBONE = "clipfit-tiny"
TINY_PRETRAINED = "builtin"
TEXTURES = "textures"

TOP_CLASSES = 5
"""How many classes a prediction names."""


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
            of open_clip's, or ``hf-hub:org/name``.
        bn: BatchNorm of ResNet towers while training: ``eval`` keeps the running statistics, ``train`` uses
            batch statistics and lets them drift, as the official code does.
    """

    backbone: str = "ViT-B-16"
    pretrained: str = "openai"
    bn: BnMode = "eval"

    def __post_init__(self) -> None:
        if self.bn not in BN_MODES:
            raise UnknownNameError("BatchNorm mode", self.bn, BN_MODES)


@dataclass(frozen=True)
class Execution:
    """How a run is computed: moves speed, memory and rounding, so it does not say which run it is.

    Attributes:
        compile: Whether torch compiles the towers when they first run.
        recompute: Whether the image tower's activations are computed again for the gradient instead of being kept.
    """

    compile: bool = False
    recompute: bool = False


@dataclass(frozen=True)
class ScheduleConfig:
    """How long and how fast: the official settings (CLIPFit repository at 4dde0494).

    Attributes:
        epochs: Passes over the training images; the learning rate is constant within one.
        batch_size: Images per step; a last partial batch is dropped when at least one whole batch exists.
        lr: Peak learning rate.
        momentum, weight_decay: Of SGD; weight decay acts on trained tensors only.
        warmup_epochs, warmup_lr: Constant warm-up; the cosine starts at its top afterwards.
    """

    epochs: int = 100
    batch_size: int = 32
    lr: float = 0.002
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: int = 1
    warmup_lr: float = 1e-5

    def __post_init__(self) -> None:
        _refuse(
            (self.epochs < 1, f"epochs must be at least 1, got {self.epochs}"),
            (self.batch_size < 1, f"batch size must be at least 1, got {self.batch_size}"),
            (not 0 < self.lr < float("inf"), f"learning rate must be a positive number, got {self.lr}"),
        )


PRESETS: dict[str, ScheduleConfig] = {
    "food101": ScheduleConfig(epochs=10),
    "imagenet": ScheduleConfig(epochs=10),
    TEXTURES: ScheduleConfig(epochs=20, lr=0.005),
}
"""What a data set has for every method, shot count and protocol, where that is not `ScheduleConfig()`.

Source: README of the CLIPFit repository at 4dde0494; `textures` is ours.
"""


@dataclass(frozen=True)
class TestSet:
    """One evaluation: a data set and the class group of it that is tested."""

    __test__ = False  # not a pytest class

    dataset: str
    subset: Subset = "all"


@dataclass(frozen=True)
class TrainingConfig:
    """One training, or the use of a model as it is: what decides its numbers, beside data and weights themselves.

    Attributes:
        dataset, subset: What is trained on. For a method that does not train, what is tested.
        shots: Training images per class; None = all; 0 = nothing is trained.
        seed: Decides the draw, the batch order and the augmentation.
        method: The method's name.
        settings: The method's resolved settings, every one of them.
        model: Backbone and weights.
        stages: How long and how fast, stage by stage; empty where nothing is trained.
        precision: Of the towers; resolved before anything is computed: fp32, bf16 or fp16.
        templates: Prompt templates of every data set of the run; empty = each data set's own.
    """

    dataset: str
    subset: Subset
    shots: int | None
    seed: int
    method: str
    settings: dict[str, Any]
    model: ModelConfig
    stages: tuple[ScheduleConfig, ...]
    precision: Precision
    templates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _refuse((self.shots is not None and self.shots < 0, f"shots must be at least 1, got {self.shots}"))


@dataclass(frozen=True, kw_only=True)
class RunConfig(TrainingConfig):
    """One training (or none) and the evaluations that follow it.

    Attributes:
        protocol: Which table the run belongs to.
        tests: Where the result is tested.
        adapter: Path of a saved adapter that is scored instead of training one.
    """

    protocol: ProtocolName
    tests: tuple[TestSet, ...]
    adapter: str | None = None

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
        epochs, batch_size, lr: None = the preset of the data set and setting.
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
        )
        if self.subset not in SUBSETS:
            raise UnknownNameError("subset", self.subset, SUBSETS)
        if self.precision not in PRECISIONS:
            raise UnknownNameError("precision", self.precision, PRECISIONS)


def preset_of(dataset: str) -> ScheduleConfig:
    """Return how long and how fast is trained on a data set by default."""
    return PRESETS.get(dataset, ScheduleConfig())
