"""Which lists of frozen features a run takes, told before it begins, so that no two processes make the same ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from clipfit_cli.config import Keep
from clipfit_cli.data.dataset import DataSet, Item
from clipfit_cli.results.store import find_run
from clipfit_cli.runs.frozen_features import View
from clipfit_cli.runs.prepare import Prepared
from clipfit_cli.runs.workspace import Workspace


class FrozenList(NamedTuple):
    """A list of images by the frozen tower; the last two words say what for."""

    dataset: DataSet
    items: Sequence[Item]
    view: View
    name: str
    subset: str


def make_ready(
    prepared: Prepared,
    workspace: Workspace,
    keep: Keep,
    *,
    waits: bool,
    on_progress: Callable[[FrozenList, int], None],
) -> bool:
    """Have what a run takes of frozen features on disk, if there is a cache; False while another process makes some.

    Args:
        prepared: A run that is not finished.
        workspace: Of this process.
        keep: What is kept of it.
        waits: Wait for such a process.
        on_progress: Told which list is made here, and how many of its images are done.

    Raises:
        DataError: An image is missing or damaged.
        ModelError: The model cannot be loaded.
    """
    if not workspace.images.disk:
        return True
    features = workspace.inputs(prepared.config.model, prepared.config.precision).features
    for one in lists_of(prepared, workspace, keep):
        if isinstance(one.view, tuple) and not features.fits(len(one.items) * (one.view[1] + 1)):
            continue  # such features are made step by step
        made = features.make_ready(
            one.dataset,
            one.items,
            one.view,
            waits=waits,
            on_progress=lambda done, one=one: on_progress(one, done),  # type: ignore[misc]
        )
        if not made:
            return False
    return True


def lists_of(prepared: Prepared, workspace: Workspace, keep: Keep) -> list[FrozenList]:
    """Return the lists of which a run takes frozen features, those of the training first.

    Raises:
        ModelError: The model cannot be loaded.
    """
    config, draw = prepared.config, prepared.training_set
    if not _is_frozen(prepared, workspace):
        return []
    found = []
    is_trained = not keep.nothing_before and find_run(prepared.folder, prepared.key) is not None
    if prepared.trains and not is_trained:
        views: dict[View, None] = {}
        for stage in config.stages:
            if stage.crop_scale is None:
                views[None] = None
            else:
                views |= dict.fromkeys((stage.crop_scale, number) for number in range(stage.views or 0))
        found += [FrozenList(draw, draw.train, view, config.dataset, config.subset) for view in views]
        if prepared.selects:
            found.append(FrozenList(draw, draw.val, None, config.dataset, config.subset))
    done = {} if keep.nothing_before else prepared.found_tests(with_logits=keep.logits)
    left = (test for test in prepared.tests if test.key not in done)
    return found + [
        FrozenList(test.dataset, test.dataset.test, test.shift, test.asked.dataset, test.asked.subset) for test in left
    ]


def _is_frozen(prepared: Prepared, workspace: Workspace) -> bool:
    """Return whether the method takes features of the tower as it is."""
    info, draw = prepared.info, prepared.training_set
    if info.family == "features":
        return True
    model = workspace.bundle(prepared.config.model).model
    trained = info.describe(model, prepared.settings, draw.num_classes, len(draw.train))
    return all(tensor.tower != "image" for tensor in trained)
