"""From options to a request: which data sets, which model, with the defaults that depend on what is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from clipfit_cli.cli.options import DrawOptions, MethodOptions, ModelOptions
from clipfit_cli.cli.words import parse_seeds, parse_shots, split_names
from clipfit_cli.config import (
    TEXTURES,
    TINY_BACKBONE,
    TINY_PRETRAINED,
    BnMode,
    MethodChoice,
    ModelConfig,
    Precision,
    Request,
    Subset,
    TestSet,
)
from clipfit_cli.data import catalog
from clipfit_cli.errors import ConfigError

Say = Callable[[str], None]


def data_root_of(data_root: Path | None) -> Path:
    """Return the data root: what was given, else the default."""
    from clipfit_cli.data.load import default_data_root

    return data_root.expanduser().absolute() if data_root else default_data_root()


def choose_datasets(given: Sequence[str] | None, data_root: Path, say: Say) -> tuple[str, ...]:
    """Return the data sets that were asked for; where none was, those that are there, else the built-in one.

    Raises:
        UnknownNameError: A name is not known.
    """
    names = split_names(given)
    if names:
        expanded = [n for name in names for n in (catalog.FEW_SHOT_DATASETS if name == "all" else (name,))]
        return tuple(dict.fromkeys(catalog.row(name).name for name in expanded))
    from clipfit_cli.data.status import present_datasets

    found = tuple(name for name in present_datasets(data_root) if name in catalog.FEW_SHOT_DATASETS)
    if found:
        say(f"data sets found under {data_root}: {', '.join(found)}")
        return found
    say(f"no data set under {data_root}: using the built-in '{TEXTURES}'")
    return (TEXTURES,)


def choose_transfer(
    source: str | None, targets: Sequence[str] | None, data_root: Path, say: Say
) -> tuple[str, tuple[TestSet, ...]]:
    """Return the source of a cross-data-set run and its test sets.

    Raises:
        UnknownNameError: A name is not known.
        ConfigError: There is nothing to test on.
    """
    from clipfit_cli.data.status import dataset_status

    def is_there(name: str) -> bool:
        return dataset_status(name, data_root).state in ("present", "built-in")

    if source is None and not is_there("imagenet"):
        say(f"no imagenet under {data_root}: using the built-in '{TEXTURES}' as the source")
        chosen = TEXTURES
    else:
        chosen = catalog.row(source or "imagenet").name
    builtin = chosen in catalog.BUILTIN_DATASETS
    everything = catalog.BUILTIN_DATASETS if builtin else (*catalog.FEW_SHOT_DATASETS, *catalog.IMAGENET_VARIANTS)
    names = split_names(targets)
    if names:
        wanted = [n for name in names for n in (everything if name == "all" else (name,))]
        found = [catalog.row(name).name for name in wanted]
    else:
        found = [name for name in everything if is_there(name)]
        if absent := [name for name in everything if name not in found and name != chosen]:
            say(f"not under {data_root}, so not tested: {', '.join(absent)}")
    tests = tuple(TestSet(name) for name in dict.fromkeys(found) if name != chosen)
    if not tests:
        raise ConfigError(f"no data set to test on besides the source {chosen}; name one with --target")
    return chosen, tests


def choose_model(options: ModelOptions, datasets: Sequence[str], say: Say) -> ModelConfig:
    """Return the model that was asked for; for built-in data sets alone, the built-in one by default."""
    bn = cast(BnMode, options.bn)
    builtin = all(name in catalog.BUILTIN_DATASETS for name in datasets)
    backbone = options.backbone
    if backbone is None and options.pretrained is None and builtin:
        say(f"using the built-in backbone '{TINY_BACKBONE}'")
        backbone = TINY_BACKBONE
    if backbone == TINY_BACKBONE:
        return ModelConfig(TINY_BACKBONE, options.pretrained or TINY_PRETRAINED, bn)
    defaults = ModelConfig()
    return ModelConfig(backbone or defaults.backbone, options.pretrained or defaults.pretrained, bn)


def build_request(
    *,
    datasets: tuple[str, ...],
    methods: tuple[MethodChoice, ...],
    model: ModelConfig,
    machine: ModelOptions,
    draw: DrawOptions,
    training: MethodOptions | None = None,
    subset: str = "all",
    targets: tuple[TestSet, ...] = (),
) -> Request:
    """Return the request.

    Args:
        datasets, methods, model, targets: Chosen already.
        machine: Of it the precision is taken, as it was given.
        draw: Shots and seeds as typed.
        training: Epochs, batch size and learning rate, where they can be given.
        subset: As typed.

    Raises:
        ConfigError: A value is not possible.
    """
    return Request(
        datasets=datasets,
        methods=methods,
        shots=parse_shots(draw.shots),
        seeds=parse_seeds(draw.seeds),
        model=model,
        epochs=training.epochs if training else None,
        batch_size=training.batch_size if training else None,
        lr=training.lr if training else None,
        precision=cast(Precision, machine.precision),
        subset=cast(Subset, subset),
        targets=targets,
    )
