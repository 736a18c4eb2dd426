"""The process that a sweep starts to make runs: ``python -m clipfit_cli.runs.child PARENT``.

It reads on stdin what to make and writes on stdout what came of it, see `messages`. What libraries print goes to
stderr. It dies with its parent, however that dies. A signal ends the step and keeps the training, as in any command; it
does not hear a second one, which the parent may send on: the parent kills it to end it at once.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from queue import SimpleQueue
from typing import IO, TYPE_CHECKING

from clipfit_cli import process
from clipfit_cli.runs.lifeline import die_with, leave

if TYPE_CHECKING:
    from clipfit_cli.config import RunConfig
    from clipfit_cli.errors import ClipfitError
    from clipfit_cli.results.record import Finished
    from clipfit_cli.runs.messages import FromWorker, ToWorker

_TELLS_EVERY_S = 0.2


def main() -> None:
    """Make runs until there is nothing more to do."""
    process.set_up()
    process.hear_one_signal()
    die_with(int(sys.argv[1]))
    told, tell = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    try:
        _work(_Asked(told), Teller(tell))
    except process.Terminated as interruption:
        from clipfit_cli.runs.messages import Ended

        Teller(tell).tell(Ended(interruption.args[0], interruption.kept))
        raise SystemExit(128 + interruption.args[0]) from None


def _work(asked: _Asked, teller: Teller) -> None:
    with process.first_signal_waits():  # an error that a signal raises while torch is imported, torch makes another of
        import open_clip  # noqa: F401

        from clipfit_cli.errors import ClipfitError
        from clipfit_cli.models.hub import network_closed
        from clipfit_cli.runs.messages import Make, Ready, Start, done
        from clipfit_cli.runs.worker import Worker

    start = asked.next()
    assert isinstance(start, Start)
    closed: AbstractContextManager[None] = network_closed() if start.plan.setup.offline else nullcontext()
    with closed:
        teller.tell(Ready())
        worker = Worker(start.plan, progress=teller, say=teller.say)
        while isinstance(make := asked.next(), Make):
            teller.index = make.index
            try:
                if not worker.take(make.index, waits=make.waits):
                    teller.tell(done(make.index, "busy"))
                    continue
            except ClipfitError as error:  # what every run after it would meet, too
                teller.tell(done(make.index, "broken", error))
                continue
            failed = worker.result.failures.pop()[1] if worker.result.failures else None
            worker.result.finished.clear()
            teller.tell(done(make.index, "failed" if failed else "finished", failed))


class _Asked:
    """What the parent asks for; once it asks no more without having said so, it is gone."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._queue = stream, SimpleQueue[bytes]()
        threading.Thread(target=self._read, daemon=True).start()

    def next(self) -> ToWorker:
        """Return what is asked for next."""
        import msgspec

        from clipfit_cli.runs.messages import ToWorker

        found: ToWorker = msgspec.json.decode(self._queue.get(), type=ToWorker)
        return found

    def _read(self) -> None:
        for line in self._stream:
            self._queue.put(line)
        leave()


class Teller:
    """Tells the parent how it goes; a `SweepProgress`.

    Attributes:
        index: Of the run that is made.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        """Tell nothing yet.

        Args:
            stream: That the parent reads.
        """
        self.index = 0
        self._stream, self._lock, self._told_at, self._what = stream, threading.Lock(), 0.0, ""

    def tell(self, message: FromWorker) -> None:
        """Send a message; from any thread."""
        import msgspec

        line = msgspec.json.encode(message) + b"\n"
        with self._lock:
            self._stream.write(line)
            self._stream.flush()

    def say(self, text: str) -> None:
        """Have the parent say it."""
        from clipfit_cli.runs.messages import Said

        self.tell(Said(text))

    def begin(self, index: int, total: int, config: RunConfig) -> None:
        del total, config
        from clipfit_cli.runs.messages import Began

        self.tell(Began(index))

    def training(self, done: int, total: int, loss: float) -> None:
        del loss
        self._at("training", done, total)

    def testing(self, dataset: str, subset: str, done: int, total: int) -> None:
        self._at(f"testing {dataset}{'' if subset == 'all' else f' {subset}'}", done, total)

    def waiting(self, config: RunConfig) -> None:
        self.say(f"{config.method} on {config.dataset}: another process is busy with this run, waiting for it")

    def reused(self, index: int, total: int, record: Finished) -> None:
        """See `SweepProgress`; the parent sees it by itself, as what follows."""

    def finished(self, record: Finished) -> None:
        """See `SweepProgress`."""

    def failed(self, config: RunConfig, error: ClipfitError) -> None:
        """See `SweepProgress`."""

    def _at(self, what: str, done: int, total: int) -> None:
        """Tell how far the run is, but not more often than somebody can see."""
        now = time.monotonic()
        if what == self._what and now - self._told_at < _TELLS_EVERY_S:
            return
        from clipfit_cli.runs.messages import At

        self._told_at, self._what = now, what
        self.tell(At(self.index, what, done, total))


if __name__ == "__main__":
    main()
