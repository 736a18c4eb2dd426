"""What the runs of one command share: data sets, weights, the loaded model, decoded images, frozen features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from clipfit_cli.config import Execution, ModelConfig, OwnDataSet, Precision, RunConfig, Subset
from clipfit_cli.data.check.check import without_damaged
from clipfit_cli.data.check.status import check_images
from clipfit_cli.data.dataset import DataSet, Item
from clipfit_cli.data.load import load_dataset
from clipfit_cli.data.pixels.images import ImageStore
from clipfit_cli.data.pixels.transforms import ImageSpec
from clipfit_cli.data.splits import class_subset, few_shot, has_validation_list, selection_images, selection_note
from clipfit_cli.engine.checkpoint import find_adapter
from clipfit_cli.engine.environment import PeakMemory, be_deterministic
from clipfit_cli.errors import ClipfitError, ConfigError, DataError
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.load import load_bundle
from clipfit_cli.models.source import ModelSource, find_source
from clipfit_cli.runs.frozen_features import FrozenFeatures
from clipfit_cli.runs.sources import Inputs

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Workspace:
    """Loads each thing once, when it is first asked for, and keeps it as long as the command runs.

    One model is kept at a time: the runs of a plan use one model.
    """

    def __init__(
        self,
        *,
        data_root: Path,
        device: torch.device,
        images: ImageStore | None = None,
        say: Callable[[str], None] | None = None,
        own: Mapping[str, OwnDataSet] | None = None,
        splits_dir: Path | None = None,
        execution: Execution | None = None,
        skip_damaged: bool = False,
    ) -> None:
        """Load nothing yet.

        Args:
            data_root: Folder of all data sets of the catalog.
            device: Where models run.
            images: Decodes them; None = one with nothing on disk.
            say: Told what takes long before the first run begins, and what a reader of the numbers should know.
            own: Name -> data set of the user's own.
            splits_dir: Where splits that are made of such data sets are kept; None = nowhere.
            execution: How models are computed; None = plainly.
            skip_damaged: Go on without images that are missing or damaged.
        """
        self.data_root = data_root
        self.own = dict(own or {})
        self._splits_dir = splits_dir
        self.skip_damaged = skip_damaged
        self.device = device
        self.execution = execution or Execution()
        self.images = images or ImageStore()
        self._say = say
        self._said: set[str] = set()
        if self.execution.deterministic and device.type == "cuda":
            be_deterministic()
        elif self.execution.deterministic:
            self.execution = replace(self.execution, deterministic=False)
            self.say_once("--deterministic is for GPUs: a CPU always gives the same bits with as many threads")
        self._datasets: dict[str, DataSet] = {}
        self._lists: dict[tuple[str, Subset, int | None, int, bool, int | None], DataSet] = {}
        self._identities: dict[tuple[str, str, tuple[str, ...]], str] = {}
        self._sources: dict[tuple[str, str], ModelSource] = {}
        self.peak_memory = PeakMemory(device)
        self._bundle: tuple[ModelConfig, ClipBundle] | None = None
        self._inputs: dict[Precision, Inputs] = {}

    def with_own(self, own: OwnDataSet) -> Workspace:
        """Return a workspace of the same places that knows a data set of the user's own, whatever else has its name."""
        return Workspace(
            data_root=self.data_root,
            device=self.device,
            images=self.images,
            own={**self.own, own.name: own},
            splits_dir=self._splits_dir,
        )

    def say_once(self, *texts: str) -> tuple[str, ...]:
        """Tell the user what this command did not tell already, and return all of it."""
        for text in texts:
            if self._say and text not in self._said:
                self._say(text)
            self._said.add(text)
        return texts

    def say_smaller(self, before: int, now: int) -> None:
        """Tell the user that so many images at a time, of no training step, were too many, and how many are tried."""
        self.say_once(f"out of memory at {before} images: going on with {now} at a time")

    def dataset(self, name: str) -> DataSet:
        """Return a whole data set by its lists.

        Raises:
            UnknownNameError: There is no such data set.
            ConfigError: The class names of an own data set are not fit for it.
            DataError: It is not there, or damaged.
        """
        if name not in self._datasets:
            dataset = load_dataset(self.own.get(name, name), self.data_root, splits_dir=self._splits_dir)
            if self.skip_damaged:
                self.say_once(f"looking for damaged images of {name} ...")
                dataset, damaged = without_damaged(dataset)
                self.say_once(*(one.reason for one in damaged))
            self.say_once(*dataset.notes)
            self._datasets[name] = dataset
        return self._datasets[name]

    def lists(
        self,
        name: str,
        subset: Subset,
        *,
        shots: int | None = None,
        seed: int = 0,
        selects: bool = False,
        val_shots: int | None = None,
    ) -> DataSet:
        """Return a data set cut to a class group; with `shots`, a draw of it.

        Args:
            name, subset, shots, seed: Which.
            selects: Whether its validation images are to be selected on, so that none of them is a test image.
            val_shots: Of the draw.

        Raises:
            DataError: A half has fewer than two classes; or see `dataset`.
            SelectionError: There is nothing to select on.
        """

        def cut() -> DataSet:
            whole = self.dataset(name)
            draws = shots or (selects and val_shots)
            drawn = few_shot(whole, shots=shots, seed=seed, val_shots=val_shots) if draws else whole
            if selects:
                drawn = replace(drawn, val=selection_images(whole, drawn, shots=shots, seed=seed, val_shots=val_shots))
            half = class_subset(drawn, subset)
            if selects and (note := selection_note(half, is_listed=has_validation_list(whole))):
                half = replace(half, notes=(*half.notes, *self.say_once(note)))
            return half

        return _kept(self._lists, (name, subset, shots, seed, selects, val_shots), cut)

    def images_sha256(self, dataset: DataSet, items: Sequence[Item]) -> str:
        """Return what tells the images of a list from others under the same names.

        Raises:
            DataError: An image is not there.
        """
        if dataset.identify is None:
            return dataset.name
        identify, paths = dataset.identify, tuple(sorted({item.path for item in items}))
        return _kept(self._identities, (dataset.name, dataset.split_sha256, paths), lambda: identify(paths))

    def source(self, model: ModelConfig) -> ModelSource:
        """Return what a model's two words mean.

        Raises:
            ModelError: It is not here and cannot be fetched.
        """
        return _kept(self._sources, (model.backbone, model.pretrained), lambda: find_source(model, say=self._say))

    def bundle(self, model: ModelConfig) -> ClipBundle:
        """Return the loaded model.

        Raises:
            ModelError: It cannot be loaded.
        """
        if self._bundle is None or self._bundle[0] != model:
            self._bundle = None
            self._inputs = {}
            bundle = load_bundle(model, device=self.device, source=self.source(model))
            self._bundle = (model, replace(bundle, execution=self.execution))
        return self._bundle[1]

    def check(self, configs: Iterable[RunConfig]) -> None:
        """Look for everything that the runs need, before the first of them starts: data, then weights.

        Raises:
            DataError: Data sets or images are missing; all of them are named.
            ConfigError: A run would train on a data set that has test images only.
            ModelError: The weights are not here and cannot be fetched.
            CheckpointError: An adapter is not there.
        """
        configs = list(configs)
        problems: list[ClipfitError] = []
        for name in dict.fromkeys(name for config in configs for name in datasets_of(config)):
            try:
                dataset = self.dataset(name)
                check_images(dataset, (*(dataset.train if dataset.train_is_sampled else ()), *dataset.test))
            except DataError as error:
                problems.append(error)
        for config in configs:
            known = self._datasets.get(config.dataset)
            if config.stages and known and not known.train_is_sampled:
                raise ConfigError(f"data set {config.dataset!r} has test images only, so nothing can train on it")
        if len(problems) == 1:
            raise problems[0]
        if problems:
            raise DataError("\n".join(str(problem) for problem in problems))
        for model in dict.fromkeys(config.model for config in configs):
            self.source(model)
        for adapter in dict.fromkeys(config.adapter for config in configs if config.adapter):
            find_adapter(Path(adapter))

    def inputs(self, model: ModelConfig, precision: Precision) -> Inputs:
        """Return what gives images to a pristine model, in a precision that is resolved.

        Raises:
            ModelError: It cannot be loaded.
        """
        bundle = self.bundle(model)
        if precision not in self._inputs:
            spec = image_spec(bundle)
            features = FrozenFeatures(bundle, precision, self.images, spec, on_smaller=self.say_smaller)
            self._inputs[precision] = Inputs(features, self.images, spec, self.device)
        return self._inputs[precision]


def _kept(known: dict[_Key, _Value], key: _Key, make: Callable[[], _Value]) -> _Value:
    """Return what is kept under a key, made when it is first asked for."""
    if key not in known:
        known[key] = make()
    return known[key]


def datasets_of(config: RunConfig) -> list[str]:
    """Return the data sets that a run touches, each once."""
    return list(dict.fromkeys([config.dataset, *(test.dataset for test in config.tests)]))


def image_spec(bundle: ClipBundle) -> ImageSpec:
    """Return how images have to be prepared for a model."""
    return ImageSpec(
        size=bundle.image_size,
        mean=bundle.image_mean,
        std=bundle.image_std,
        interpolation=bundle.interpolation,
        resize_mode=bundle.resize_mode,
    )
