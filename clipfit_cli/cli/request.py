"""From options to a request: which data sets, which model, with the defaults that depend on what is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

from clipfit_cli.cli.console import note
from clipfit_cli.cli.model_options import ModelOptions
from clipfit_cli.cli.options import DatasetOptions, DrawOptions, MethodOptions, RootOptions, TransferOptions
from clipfit_cli.cli.output_options import RunOptions
from clipfit_cli.cli.prompts import PromptOptions, choose_templates, read_class_names
from clipfit_cli.cli.words import parse_seeds, parse_shots, split_names
from clipfit_cli.config import (
    TEXTURES,
    TINY_BACKBONE,
    TINY_PRETRAINED,
    BnMode,
    MethodChoice,
    ModelConfig,
    OwnDataSet,
    Precision,
    Request,
    Subset,
    TestSet,
)
from clipfit_cli.data import catalog
from clipfit_cli.data.lists.own.custom import find_own, is_one_source
from clipfit_cli.errors import ConfigError
from clipfit_cli.files import expanded, file_sha256
from clipfit_cli.models.model_folder import is_model_folder

Say = Callable[[str], None]
OwnDataSets = dict[str, OwnDataSet]
"""Name -> where that data set of the user's own is."""


@dataclass(frozen=True)
class Asked:
    """What a command is to do.

    Attributes:
        request: The request.
        data_root: Folder of the data sets of the catalog.
        own: What is behind names that are not in the catalog.
    """

    request: Request
    data_root: Path
    own: OwnDataSets


def data_root_of(data_root: Path | None) -> Path:
    """Return the data root: what was given, else the default.

    Raises:
        ConfigError: It begins with the home folder of nobody.
    """
    from clipfit_cli.data.load import default_data_root

    return expanded(data_root).absolute() if data_root else default_data_root()


def splits_dir_of(runs_dir: Path) -> Path:
    """Return the folder of the splits that are made of a user's own images, beside the runs.

    Raises:
        ConfigError: The folder of runs begins with the home folder of nobody.
    """
    return expanded(runs_dir) / ".splits"


def cache_folder(given: str | None) -> Path | None:
    """Return the folder that ``--image-cache`` names; None where it was not given.

    Raises:
        ConfigError: It names the home folder of nobody, or is no path.
    """
    from clipfit_cli.data.pixels.disk_cache import default_cache_folder

    if not given:
        return None
    return default_cache_folder() if given == "auto" else expanded(given).absolute()


def choose_datasets(
    given: Sequence[str] | None, data_root: Path, say: Say, class_names: Path | None = None
) -> tuple[tuple[str, ...], OwnDataSets]:
    """Return the data sets that were asked for; where none was, those that are there, else the built-in one.

    Args:
        given: As typed: names, paths and schemes.
        data_root: Where those of the catalog are looked for.
        say: Told what was found.
        class_names: File with those of the one own data set.

    Returns:
        Names, and what is behind those that are not in the catalog.

    Raises:
        UnknownNameError: A name is not known.
        ConfigError: See `own_datasets`.
        DataError: A path leads nowhere.
    """
    texts = split_names(given, is_one_source)
    if texts:
        expanded = [n for text in texts for n in (catalog.FEW_SHOT_DATASETS if text == "all" else (text,))]
        for text in texts:
            if text != "all" and find_own(text) is None and Path(text).exists():
                say(f"'{text}' is the published {catalog.row(text).name}; for the folder here write ./{text}")
        return own_datasets(expanded, class_names)
    own_datasets((), class_names)
    from clipfit_cli.data.check.status import present_datasets

    found = tuple(name for name in present_datasets(data_root) if name in catalog.FEW_SHOT_DATASETS)
    if found:
        say(f"data sets found under {data_root}: {', '.join(found)}")
        return found, {}
    say(f"no data set under {data_root}: using the built-in '{TEXTURES}'")
    return (TEXTURES,), {}


def own_datasets(texts: Sequence[str], class_names: Path | None = None) -> tuple[tuple[str, ...], OwnDataSets]:
    """Return the names that texts stand for, each once, and what is behind those that are not in the catalog.

    Args:
        texts: Each a name, a path or a scheme.
        class_names: File with those of the one own data set among them.

    Raises:
        UnknownNameError: A name is not known.
        ConfigError: Two own data sets have one name; there are class names, but not one own data set; or their
            file cannot be used.
        DataError: A path leads nowhere.
    """
    names: list[str] = []
    own: OwnDataSets = {}
    for text in texts:
        found = find_own(text)
        if found and own.setdefault(found.name, found) != found:
            raise ConfigError(
                f"two data sets would be called {found.name!r}: {own[found.name].location} and {found.location}; "
                f"name one yourself: --dataset OTHER={found.location}"
            )
        names.append(found.name if found else catalog.row(text).name)
    if class_names is not None:
        if len(own) != 1:
            raise ConfigError(f"--class-names is for one data set of your own images, here are {len(own)} of them")
        words, file = read_class_names(class_names), expanded(class_names).absolute()
        digest = file_sha256(file)
        own = {
            name: replace(one, class_names=words, class_names_file=str(file), class_names_sha256=digest)
            for name, one in own.items()
        }
    return tuple(dict.fromkeys(names)), own


def choose_transfer(
    asked: TransferOptions, data_root: Path, say: Say, class_names: Path | None = None
) -> tuple[tuple[str, ...], OwnDataSets, tuple[str, ...], tuple[str, ...]]:
    """Return the source of a cross-data-set run, what is behind own names, the targets, and the shifts among them.

    Raises:
        UnknownNameError: A name is not known.
        ConfigError: There is nothing to test on; or see `own_datasets`.
        DataError: A path leads nowhere.
    """
    from clipfit_cli.data.check.status import dataset_status

    def is_there(name: str) -> bool:
        return dataset_status(name, data_root).state in ("present", "built-in")

    if asked.source is None and not is_there("imagenet"):
        say(f"no imagenet under {data_root}: using the built-in '{TEXTURES}' as the source")
        chosen = TEXTURES
    else:
        chosen = asked.source or "imagenet"
    own_datasets((chosen,))
    if catalog.is_known(chosen):
        chosen = catalog.row(chosen).name
    builtin = chosen in catalog.BUILTIN_DATASETS
    everything = catalog.BUILTIN_DATASETS if builtin else (*catalog.FEW_SHOT_DATASETS, *catalog.IMAGENET_VARIANTS)
    domains = split_names(asked.shift, is_one_source)
    texts = split_names(asked.target, is_one_source) + domains
    if texts:
        found = [n for text in texts for n in (everything if text == "all" else (text,))]
    else:
        found = [name for name in everything if is_there(name)]
        if absent := [name for name in everything if name not in found and name != chosen]:
            say(f"not under {data_root}, so not tested: {', '.join(absent)}")
    names, own = own_datasets([chosen, *found], class_names)
    if len(names) < 2:
        option = "--shift" if asked.shift and not asked.target else "--target"
        raise ConfigError(f"no data set to test on besides the source {names[0]}; name one with {option}")
    own = {name: replace(one, all_test=name != names[0]) for name, one in own.items()}
    return names[:1], own, names[1:], own_datasets(domains)[0]


def choose_model(options: ModelOptions, datasets: Sequence[str], say: Say) -> ModelConfig:
    """Return the model that was asked for; for built-in data sets alone, the built-in one by default.

    A folder, or a repository of the hub, that stands for a model with its architecture is both of the two names.
    """
    backbone, pretrained, defaults = options.backbone, options.pretrained, ModelConfig()
    if backbone is None and pretrained is None and all(name in catalog.BUILTIN_DATASETS for name in datasets):
        say(f"using the built-in backbone '{TINY_BACKBONE}'")
        backbone = TINY_BACKBONE
    if backbone == TINY_BACKBONE:
        defaults = ModelConfig(TINY_BACKBONE, TINY_PRETRAINED)
    elif pretrained is None and backbone is not None and is_model_folder(backbone):
        pretrained = backbone
    elif backbone is None and pretrained is not None and is_model_folder(pretrained):
        backbone = pretrained
    return ModelConfig(backbone or defaults.backbone, pretrained or defaults.pretrained, cast(BnMode, options.bn))


def ask(
    *,
    methods: tuple[MethodChoice, ...],
    root: RootOptions,
    prompts: PromptOptions,
    draw: DrawOptions,
    machine: ModelOptions,
    output: RunOptions,
    data: DatasetOptions | None = None,
    transfer: TransferOptions | None = None,
    training: MethodOptions | None = None,
    subset: str = "all",
    templates: tuple[str, ...] = (),
) -> Asked:
    """Return the request that a command's options make, and where its data are.

    Args:
        methods: Chosen already.
        root, prompts, draw, machine, output, training: As typed.
        data: Which data sets; or
        transfer: which source and targets.
        subset: As typed.
        templates: Instead of those in `prompts`.

    Raises:
        ConfigError: A value is not possible or is said in two ways, or there is nothing to test on.
        DataError: A path leads nowhere.
    """
    say = partial(note, quiet=output.quiet)
    chosen = choose_templates(prompts)
    if chosen and (others := [choice.name for choice in methods if choice.overrides.get("templates") == "reference"]):
        raise ConfigError(
            f"templates that are given and templates=reference of {others[0]} say two things; leave one out"
        )
    templates = templates or chosen
    data_root = data_root_of(root.data_root)
    datasets, own, targets, shifts = (
        choose_transfer(transfer, data_root, say, prompts.class_names)
        if transfer
        else (*choose_datasets(data.dataset if data else None, data_root, say, prompts.class_names), (), ())
    )
    request = Request(
        datasets=datasets,
        methods=methods,
        shots=parse_shots(draw.shots),
        seeds=parse_seeds(draw.seeds),
        model=choose_model(machine, [*datasets, *targets], say),
        epochs=training.epochs if training else None,
        batch_size=training.batch_size if training else None,
        lr=training.lr if training else None,
        val_shots=training.val_shots if training else None,
        tune=bool(training and training.tune),
        precision=cast(Precision, machine.precision),
        subset=cast(Subset, subset),
        targets=tuple(map(TestSet, targets)),
        templates=templates,
        shifts=shifts,
    )
    return Asked(request, data_root, own)
