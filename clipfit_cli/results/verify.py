"""Whether finished runs still are what was written: keys, digests, metrics, and what is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from clipfit_cli.errors import ResultsError
from clipfit_cli.files import file_sha256, read_bytes
from clipfit_cli.results import metrics
from clipfit_cli.results.predictions import Predictions, TestList, predictions_of
from clipfit_cli.results.reader import is_of_its_data
from clipfit_cli.results.record import Run, Test
from clipfit_cli.results.steps import read_steps
from clipfit_cli.results.store import (
    CHECKPOINT_FILE,
    RECORD_FILE,
    TESTS_FOLDER,
    RunStore,
    key_digits,
    read_request,
    read_run,
    read_test,
    request_files,
    test_files,
)

CARD_FILE = "adapter_config.json"

_METRICS: dict[str, Callable[[Predictions], float]] = {
    "accuracy_pct": metrics.accuracy_pct,
    "macro_f1_pct": metrics.macro_f1_pct,
    "mean_per_class_accuracy_pct": metrics.mean_per_class_accuracy_pct,
}
_NEAR = 1e-9
"""Percentage points that two sums of the same numbers in another order may differ by."""

_LOGITS_NEAR = 1e-12
_GONE = "it is missing; what the run was tested on holds, and its command with --force trains it again"
_MOST_CARD = 1 << 26


@dataclass(frozen=True)
class Finding:
    """Something that is not as it was written.

    Attributes:
        kind: ``record``, ``old record``, ``place``, ``adapter``, ``steps``, ``request``, ``test``, ``predictions``,
            ``metric`` or ``logits``.
        path: The file or folder at fault.
        message: What is wrong, in a sentence that does not repeat the path.
    """

    kind: str
    path: Path
    message: str


def verify_run(folder: Path, store: RunStore) -> list[Finding]:
    """Whatever is wrong with a training, its files and its tests; nothing while another process is at it.

    Every file is read: keys are made anew from the conditions, digests from the bytes, metrics from the predictions.

    Args:
        folder: Of the training.
        store: That it belongs to, which tells who is at it.
    """
    found = list(_findings(folder))
    return [] if found and store.is_held(key_digits(folder)) else found


def unrecorded(runs_dir: Path) -> list[Path]:
    """The folders of a runs folder that hold files of a run and no record of it, sorted; see `on_the_way`."""
    return sorted(path for path in _without_record(runs_dir) if any(_files_of_runs(path)))


def on_the_way(runs_dir: Path) -> list[Path]:
    """The checkpoints of a runs folder, sorted: of trainings that are on their way, or were given up."""
    folders = (path for path in runs_dir.glob("*/*/*") if not _is_hidden(path.relative_to(runs_dir)))
    found = (path / CHECKPOINT_FILE for path in folders if not path.is_symlink())
    return sorted(path for path in found if path.is_file())


def _without_record(runs_dir: Path) -> Iterator[Path]:
    for path in runs_dir.glob("*/*/*"):
        if path.is_dir() and not (path / RECORD_FILE).exists() and not _is_hidden(path.relative_to(runs_dir)):
            yield path


def _files_of_runs(folder: Path) -> Iterator[Path]:
    """Yield what is in a folder beside a checkpoint and what is being written, or was left so."""
    for path in folder.iterdir():
        if path.name != CHECKPOINT_FILE and not path.name.startswith(f".{CHECKPOINT_FILE}."):
            yield path


def _findings(folder: Path) -> Iterator[Finding]:
    path = folder / RECORD_FILE
    try:
        run = read_run(path)
    except ResultsError as error:
        yield Finding("record", path, str(error).removeprefix(f"{path} "))
        return
    if run is None:
        yield Finding("record", path, "the record of the training is missing; run it again, or prune what is left")
        return
    if key_digits(folder) != run.key[: len(key_digits(folder))] or not key_digits(folder):
        yield Finding("place", folder, f"its name does not end in -{run.key[:12]}, so that no command finds it")
    yield from _of_adapter(folder, run)
    yield from _of_steps(folder, run)
    yield from _of_requests(folder, run)
    yield from _of_tests(folder, run)


def _of_adapter(folder: Path, run: Run) -> Iterator[Finding]:
    if run.adapter_file is None:
        return
    path, card = folder / Path(run.adapter_file).name, folder / CARD_FILE
    try:
        if file_sha256(path) != run.adapter_sha256:
            yield Finding("adapter", path, "it was changed since it was written: its sha256 is not the recorded one")
    except FileNotFoundError:
        yield Finding("adapter", path, _GONE)
    except OSError as error:
        yield Finding("adapter", path, f"it cannot be read: {error.strerror or error}")
    try:
        held = msgspec.json.decode(read_bytes(card, _MOST_CARD), type=dict[str, Any])
    except FileNotFoundError:
        yield Finding("adapter", card, _GONE)
        return
    except OSError as error:
        yield Finding("adapter", card, f"it cannot be read: {error.strerror or error}")
        return
    except (ValueError, RecursionError) as error:
        yield Finding("adapter", card, f"it is no card of an adapter: {str(error)[:200]}")
        return
    known = {**_on_card(run, held.get("settings")), **_class_names(folder, run)}
    for name, value in known.items():
        if held.get(name) != value:
            yield Finding("adapter", card, f"its {name} is not that of the record")


def _on_card(run: Run, held: Any) -> dict[str, Any]:
    """What a card repeats of the record, as JSON has it.

    A chosen setting is what was chosen, or what was asked for: a method that chooses by itself has it in its state.

    Args:
        run: The record.
        held: Settings on the card.
    """
    config = run.config
    chosen = {name: value for name, value in run.chosen.items() if name in config.settings}
    known = {
        "run_key": run.key,
        "adapter_sha256": run.adapter_sha256,
        "weights_sha256": run.weights_sha256,
        "activation": run.activation,
        "trainable_parameters": run.trainable_parameters,
        "prompt_templates": config.templates,
        **vars(config.model),
        **{name: getattr(config, name) for name in ("method", "dataset", "subset", "shots", "seed")},
        "settings": {**config.settings, **chosen},
    }
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(known))
    asked = msgspec.json.decode(msgspec.json.encode(config.settings))
    if isinstance(held, dict):
        plain["settings"] |= {name: asked[name] for name in chosen if held.get(name) == asked[name]}
    return plain


def _class_names(folder: Path, run: Run) -> dict[str, Any]:
    """The class names that a test of what was trained on was made with, where there is one that tells."""
    for path in test_files(folder):
        with suppress(ResultsError):
            test = read_test(path)
            if test and test.subset == run.config.subset and is_of_its_data(run, test):
                names = predictions_of(folder, test)[1].class_names
                return {"class_names": list(names)} if names else {}
    return {}


def _of_requests(folder: Path, run: Run) -> Iterator[Finding]:
    for path in request_files(folder):
        try:
            request = read_request(path)
        except ResultsError as error:
            yield Finding("request", path, str(error).removeprefix(f"{path} "))
            continue
        if request and request.training_key != run.key:
            yield Finding("request", path, f"it is of another training, {request.training_key[:12]}")


def _of_steps(folder: Path, run: Run) -> Iterator[Finding]:
    if run.steps_file is None:
        return
    path = folder / Path(run.steps_file).name
    try:
        count = len(read_steps(folder, run))
    except ResultsError as error:
        yield Finding("steps", path, str(error).removeprefix(f"{path} "))
        return
    if count not in (run.steps, run.steps + run.skipped_steps):
        yield Finding("steps", path, f"it has {count} steps, the record {run.steps}")


def _of_tests(folder: Path, run: Run) -> Iterator[Finding]:
    below, known = folder / TESTS_FOLDER, set[str]()
    for path in test_files(folder):
        known |= {path.name, f"{path.stem}.safetensors", f"{path.stem}.logits.safetensors"}
        try:
            test = read_test(path)
        except ResultsError as error:
            yield Finding("record", path, str(error).removeprefix(f"{path} "))
            continue
        if test is None:
            continue
        known |= {Path(name).name for name in (test.predictions_file, test.logits_file) if name}
        if not path.stem.endswith(f"-{test.key[:12]}"):
            yield Finding("place", path, f"its name does not end in -{test.key[:12]}.json, so that no command finds it")
        if test.training_key != run.key:
            yield Finding("test", path, f"it is a test of another training, {test.training_key[:12]}")
        yield from _of_predictions(folder, test, path)
    for path in sorted(below.glob("*")):
        if path.name not in known and not path.name.startswith("."):
            yield Finding("test", path, "it belongs to no test: the record that names it is missing")
    if not known:
        yield Finding("test", below, "there is no test of this training; run it again")


def _of_predictions(folder: Path, test: Test, record: Path) -> Iterator[Finding]:
    path = folder / TESTS_FOLDER / Path(test.predictions_file).name
    try:
        predictions, about = predictions_of(folder, test)
    except ResultsError as error:
        yield Finding("predictions", path, str(error).removeprefix(f"{path} "))
        return
    if not test.num_images:
        yield Finding("metric", record, "it is a test of no image")
        return
    for name, of in _METRICS.items():
        made, recorded = of(predictions), getattr(test, name)
        if abs(made - recorded) > _NEAR:
            yield Finding("metric", record, f"{name} is {recorded!r} in the record, {made!r} by the predictions")
    if test.logits_file is not None:
        yield from _of_logits(folder / TESTS_FOLDER / Path(test.logits_file).name, test, predictions, about)


def _of_logits(path: Path, test: Test, predictions: Predictions, about: TestList) -> Iterator[Finding]:
    """Whether logits give the predictions beside them."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            logits = np.asarray(file.get_tensor("logits"), dtype=np.float64)
            ordered = (file.metadata() or {}).get("list_sha256")
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        yield Finding("logits", path, f"it cannot be read as logits: {str(error)[:200]}")
        return
    if logits.shape != (test.num_images, test.num_classes) or ordered != about.sha256:
        yield Finding("logits", path, f"it holds {logits.shape}, or other images than the predictions")
        return
    rows = np.arange(len(logits))
    shifted = logits - logits.max(axis=1, keepdims=True)
    total = np.log(np.exp(shifted).sum(axis=1))
    gaps = [
        np.abs(shifted[rows, classes] - total - recorded)
        for classes, recorded in (
            (predictions.label, predictions.label_log_probability),
            (predictions.predicted, predictions.predicted_log_probability),
        )
    ]
    squares = np.abs(np.exp(2 * (shifted - total[:, None])).sum(axis=1) - predictions.sum_squared_probabilities)
    if not (np.maximum(*gaps) + squares < _LOGITS_NEAR).all():
        yield Finding("logits", path, "they do not give the predictions beside them")


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
