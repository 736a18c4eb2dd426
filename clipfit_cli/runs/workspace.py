"""What the runs of one command share: data sets, weights, the loaded model, decoded images, frozen features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from clipfit_cli.config import Execution, ModelConfig, Precision, RunConfig, TestSet
from clipfit_cli.data.check.status import check_images
from clipfit_cli.data.dataset import DataSet, Item
from clipfit_cli.data.lists.own.custom import OwnDataSet
from clipfit_cli.data.load import load_dataset
from clipfit_cli.data.pixels.augment import to_device
from clipfit_cli.data.pixels.images import ImageStore
from clipfit_cli.data.pixels.transforms import ImageSpec, normalise
from clipfit_cli.data.splits import class_subset, few_shot
from clipfit_cli.engine.checkpoint import WEIGHTS_FILE, find_adapter
from clipfit_cli.engine.train import Batches, Plan
from clipfit_cli.errors import ClipfitError, ConfigError, DataError
from clipfit_cli.files import file_sha256
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.load import load_bundle
from clipfit_cli.models.source import ModelSource, find_source
from clipfit_cli.results.record import run_key
from clipfit_cli.runs.frozen_features import FrozenFeatures


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
        """
        self.data_root = data_root
        self._own = dict(own or {})
        self._splits_dir = splits_dir
        self.device = device
        self.execution = execution or Execution()
        self.images = images or ImageStore()
        self._say = say
        self._said: set[str] = set()
        self._datasets: dict[str, DataSet] = {}
        self._sources: dict[tuple[str, str], ModelSource] = {}
        self._bundle: tuple[ModelConfig, ClipBundle] | None = None
        self._features: dict[Precision, FrozenFeatures] = {}

    def say_once(self, text: str) -> None:
        """Tell the user something, unless this command told it already."""
        if self._say and text not in self._said:
            self._say(text)
        self._said.add(text)

    def say_smaller_tests(self, before: int, now: int) -> None:
        """Tell the user that so many test images at a time were too many for memory, and how many are tried now."""
        self.say_once(f"out of memory at {before} test images: going on with {now} at a time")

    def dataset(self, name: str) -> DataSet:
        """Return a whole data set by its lists.

        Raises:
            UnknownNameError: There is no such data set.
            ConfigError: The class names of an own data set are not fit for it.
            DataError: It is not there, or damaged.
        """
        if name not in self._datasets:
            where = self._own.get(name, name)
            self._datasets[name] = load_dataset(where, self.data_root, splits_dir=self._splits_dir)
        return self._datasets[name]

    def training_set(self, config: RunConfig) -> DataSet:
        """Return the draw that a run trains on, cut to its class group."""
        return class_subset(self._draw(config), config.subset)

    def test_set(self, config: RunConfig, test: TestSet) -> DataSet:
        """Return a data set to test on, with the class names that the run's draw, or the whole list, gives."""
        dataset = self._draw(config) if test.dataset == config.dataset else self.dataset(test.dataset)
        return class_subset(dataset, test.subset)

    def source(self, model: ModelConfig) -> ModelSource:
        """Return what a model's two words mean.

        Raises:
            ModelError: It is not here and cannot be fetched.
        """
        key = (model.backbone, model.pretrained)
        if key not in self._sources:
            self._sources[key] = find_source(model, say=self._say)
        return self._sources[key]

    def bundle(self, model: ModelConfig) -> ClipBundle:
        """Return the loaded model.

        Raises:
            ModelError: It cannot be loaded.
        """
        if self._bundle is None or self._bundle[0] != model:
            self._bundle = None
            self._features = {}
            bundle = load_bundle(model, device=self.device, source=self.source(model))
            self._bundle = (model, replace(bundle, execution=self.execution))
        return self._bundle[1]

    def key(self, config: RunConfig) -> str:
        """Return the hash of all that can move the numbers of a run.

        Raises:
            ClipfitError: A data set, the weights or the adapter is not there.
        """
        adapter = file_sha256(find_adapter(Path(config.adapter)) / WEIGHTS_FILE) if config.adapter else None
        return run_key(
            config,
            split_sha256=self.split_hashes(config),
            weights_sha256=self.source(config.model).sha256,
            adapter_sha256=adapter,
        )

    def split_hashes(self, config: RunConfig) -> dict[str, str]:
        """Return data set -> hash of its lists, for all data sets of a run."""
        return {name: self.dataset(name).split_sha256 for name in datasets_of(config)}

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
            if config.schedule and known and not known.train_is_sampled:
                raise ConfigError(f"data set {config.dataset!r} has test images only, so nothing can train on it")
        if len(problems) == 1:
            raise problems[0]
        if problems:
            raise DataError("\n".join(str(problem) for problem in problems))
        for model in dict.fromkeys(config.model for config in configs):
            self.source(model)
        for adapter in dict.fromkeys(config.adapter for config in configs if config.adapter):
            find_adapter(Path(adapter))

    def train_batches(self, dataset: DataSet, plan: Plan, spec: ImageSpec) -> Batches:
        """Return an iterator over normalised random crops (batch, 3, size, size) and labels (batch,), on the device.

        Closing it drops what is prepared ahead.
        """
        batches = (([dataset.train[index] for index in indices], seeds) for indices, seeds in plan)
        return self.images.train_batches(dataset, batches, spec, self.device)

    def test_batches(
        self, dataset: DataSet, items: Sequence[Item], spec: ImageSpec, batch_size: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield normalised centre crops (batch, 3, size, size) on the device and labels (batch,) on the CPU."""
        for images, labels in self.images.test_batches(dataset, items, spec, batch_size):
            yield normalise(to_device(images, self.device), spec), labels

    def features(self, model: ModelConfig, precision: Precision) -> FrozenFeatures:
        """Return the image features of a pristine model, in a precision that is resolved.

        Raises:
            ModelError: It cannot be loaded.
        """
        bundle = self.bundle(model)
        if precision not in self._features:
            self._features[precision] = FrozenFeatures(
                bundle, precision, self.images, image_spec(bundle), on_smaller=self.say_smaller_tests
            )
        return self._features[precision]

    def _draw(self, config: RunConfig) -> DataSet:
        dataset = self.dataset(config.dataset)
        return few_shot(dataset, shots=config.shots, seed=config.seed) if config.shots else dataset


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
