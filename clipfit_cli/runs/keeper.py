"""When a training on its way is written down, and what is said where it ends early or goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from clipfit_cli.config import Recipe
from clipfit_cli.engine.resume import Snapshot
from clipfit_cli.errors import CheckpointError, TrainingError
from clipfit_cli.process import Terminated, first_signal_waits
from clipfit_cli.results.store import CHECKPOINT_FILE, RECORD_FILE
from clipfit_cli.runs.checkpoint_file import Checkpoint, read_checkpoint, write_checkpoint

STEPS = 100
"""A recipe that is counted in steps is kept after so many where one in epochs is kept after an epoch."""

LEAST_S, MOST_SHARE = 60.0, 0.01
"""Where nobody says how often: seconds between two checkpoints, and the most that they take of the time."""


@dataclass(frozen=True)
class KeptRun:
    """Whose training is kept.

    Attributes:
        folder, key: Of the run.
        what: It is, in words.
        circumstances: What may move bits, by name.
    """

    folder: Path
    key: str
    what: str
    circumstances: Mapping[str, str]


class TrainingKeeper:
    """Keeps one training; see `engine.resume.Keeper`.

    As a context it writes what is finished within, and not written yet, when a signal ends it. A training that broke
    down would break down again, so that its checkpoint goes.

    Attributes:
        past: What the training goes on from; None = it begins.
    """

    def __init__(
        self, run: KeptRun, *, say: Callable[[str], object], every: int | None = None, begins_anew: bool = False
    ) -> None:
        """Read what there is; what cannot be gone on from is named.

        Args:
            run: Whose training it is.
            say: Told what a user should know.
            every: Epochs between two checkpoints, or so many times `STEPS`; None = one, but see `LEAST_S`.
            begins_anew: Whether what there is goes. Beside a record nothing is kept either then: the same command would
                begin anew once more, and any other takes the finished run.
        """
        self._run, self._say, self._every = run, say, every
        self._path = run.folder / CHECKPOINT_FILE
        self._told: list[int] = []
        self._asked = self._written = time.monotonic()
        self._cost_s, self._is_behind, self._kept, self._num_stages = 0.0, False, "", 1
        self._now = Checkpoint(circumstances=dict(run.circumstances))
        self.past: Checkpoint | None = None
        self._is_of_use = not (begins_anew and (run.folder / RECORD_FILE).exists())
        if begins_anew:
            self._remove()
        try:
            self.past = read_checkpoint(self._path, run.key)
        except CheckpointError as error:
            self.refuse(f"{error}")
        if self.past:
            known = replace(self.past, stages=(), times_resumed=self.past.times_resumed + 1)
            self._now = replace(known, circumstances=self._now.circumstances)
            self._kept = f"{run.what} up to {_place(self.past)}"
            self._say(f"going on with {run.what} from {_place(self.past)}")

    @property
    def times_resumed(self) -> int:
        """How often the training went on."""
        return self._now.times_resumed

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the numbers should know of how it went on."""
        then, now = self.past.circumstances if self.past else {}, self._run.circumstances
        changes = [f"{name} {then[name]} -> {now.get(name)}" for name in sorted(then) if then[name] != now.get(name)]
        if not changes:
            return ()
        return (f"went on under other circumstances ({', '.join(changes)}), which can move the last bits",)

    def refuse(self, reason: str) -> None:
        """Have the training begin anew, as what there is cannot be gone on from."""
        self._say(f"{self._path} {reason}: {self._run.what} begins anew")
        self.past, self._now = None, Checkpoint(circumstances=dict(self._run.circumstances))

    def begin(self, num_stages: int) -> None:
        """Be told that a training of so many stages begins, or goes on."""
        self._num_stages = num_stages
        self._now = replace(self._now, stages=())

    @contextmanager
    def within_steps(self) -> Iterator[None]:
        with first_signal_waits() as self._told:
            yield

    def is_due(self, recipe: Recipe, done: int, steps_per_epoch: int) -> bool:
        """See `engine.resume.Keeper`; a signal that came makes it due."""
        self._asked = time.monotonic()
        each = (self._every or 1) * (steps_per_epoch if recipe.steps is None else STEPS)
        return bool(self._told) or (done % each == 0 and self._is_wanted)

    def keep(self, snapshot: Snapshot) -> None:
        """See `engine.resume.Keeper`; where a signal came, the training ends here."""
        self._write(replace(self._now, stages=(*self._now.stages, snapshot)))
        self._end_if_told()

    def finished(self, snapshot: Snapshot) -> None:
        if len(self._now.stages) + 1 < self._num_stages:  # a later stage may change it
            tensors = {name: tensor.clone() for name, tensor in snapshot.tensors.items()}
            snapshot = replace(snapshot, tensors=tensors)
        self._now, self._is_behind = replace(self._now, stages=(*self._now.stages, snapshot)), True
        if self._told:
            self._write(self._now)
            self._end_if_told()

    def tried(self, accuracy_pct: float, time_s: float) -> None:
        """Take a try that is at its end, with what it gave on the validation images and how long it took."""
        now, self._asked = self._now, time.monotonic()
        best = now.stages if accuracy_pct > max(now.tries, default=-1.0) else now.best
        total_s = now.tries_time_s + time_s
        self._now = replace(now, stages=(), tries=(*now.tries, accuracy_pct), tries_time_s=total_s, best=best)
        self._is_behind = True
        if self._is_wanted:
            self._write(self._now)

    def done(self) -> None:
        """Be told that the training is in its place, its checkpoint gone with what was there before."""
        self._is_behind, self._kept = False, ""

    def __enter__(self) -> TrainingKeeper:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        if isinstance(error, TrainingError):
            self._remove()
        if isinstance(error, KeyboardInterrupt) and len(self._told) < 2:
            if self._is_behind:
                self._write(self._now)
            if isinstance(error, Terminated):
                error.kept = self._kept

    @property
    def _is_wanted(self) -> bool:
        since = self._asked - self._written
        return self._every is not None or since >= max(LEAST_S, self._cost_s / MOST_SHARE)

    def _end_if_told(self) -> None:
        if self._told:
            raise Terminated(self._told[0])

    def _write(self, checkpoint: Checkpoint) -> None:
        """Write it; what cannot be written does not stop the training."""
        if not self._is_of_use:
            return
        try:
            write_checkpoint(self._path, self._run.key, checkpoint)
        except OSError as error:
            self._say(f"{self._path} cannot be written: {error.strerror or error}; the training goes on without it")
        else:
            self._is_behind, self._kept = False, f"{self._run.what} up to {_place(checkpoint)}"
        self._written = time.monotonic()
        self._cost_s = self._written - self._asked

    def _remove(self) -> None:
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


def _place(checkpoint: Checkpoint) -> str:
    """Return how far a training has come, in words."""
    stages, tries = checkpoint.stages, checkpoint.tries
    step = f"step {stages[-1].done:,}" if stages else ""
    stage = f"stage {len(stages)}" if len(stages) > 1 else ""
    return " of ".join(filter(None, (step, stage, f"try {len(tries) + 1}" if tries else ""))) or "its beginning"
