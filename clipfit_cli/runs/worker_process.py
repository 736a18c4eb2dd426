"""A process that makes runs, as the one that started it sees it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgspec

from clipfit_cli.runs.messages import FromWorker, Make, Start, Stop, ToWorker
from clipfit_cli.runs.places import Place
from clipfit_cli.runs.plan_file import Plan

_ROOT = Path(__file__).parents[2]
_PATIENCE_S = 10.0
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

start = subprocess.Popen
"""How a process is started; campaigns that start thousands of them have their own."""


def _import_paths() -> dict[str, str]:
    """Return what has a new interpreter import this very package, and nothing from the current folder."""
    found = {"PYTHONSAFEPATH": "1"}
    if _ROOT.name not in ("site-packages", "dist-packages"):
        found["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    return found


class WorkerProcess:
    """Started at once; it tells from a thread, its end last.

    It is in a session of its own, so that Ctrl-C reaches it once: through the process that started it.

    Attributes:
        place: Where it runs.
        index: Of the run that it is at; None = of none.
        is_stopping: Whether it was told that there is nothing more to do.
        is_ready: Whether it has told that it is.
    """

    def __init__(self, place: Place, plan: Plan, on_told: Callable[[WorkerProcess, FromWorker | None], None]) -> None:
        """Start it, from the main thread: it dies with the thread that starts it.

        Args:
            place: Where it runs.
            plan: Whose runs it is to make.
            on_told: Called from a thread with each message, and with None when it has ended.

        Raises:
            OSError: It cannot be started.
        """
        self.place, self.is_stopping, self.is_ready = place, False, False
        self.index: int | None = None
        threads = dict.fromkeys(_THREADS, str(plan.setup.threads)) if plan.setup.threads else {}
        self._process = start(
            [sys.executable, "-m", "clipfit_cli.runs.child", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **_import_paths(), **threads, **place.environment},
            start_new_session=True,
        )
        self._on_told = on_told
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._tell(Start(msgspec.structs.replace(plan, setup=replace(plan.setup, device=place.device))))

    def make(self, index: int, *, waits: bool) -> None:
        """Have it make a run; see `Make`."""
        self.index = index
        self._tell(Make(index, waits))

    def stop(self) -> None:
        """Tell it that there is nothing more to do."""
        self.is_stopping = True
        self._tell(Stop())

    def signal(self, number: int) -> None:
        """Send a signal; where the system has none, or before it is ready, which takes seconds, it is killed."""
        self.is_stopping = True
        if os.name == "nt" or not self.is_ready:
            self._process.kill()
        else:
            self._process.send_signal(number)

    def end(self) -> None:
        """Have it gone; what has nothing more to do gets some seconds to end by itself."""
        if self.index is None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_PATIENCE_S)
        self._process.kill()
        self._listener.join()

    def how_it_ended(self) -> str:
        """Return how it ended, in words."""
        code = self._process.wait()
        if code >= 0:
            return f"with exit code {code}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        return f"by {name}" + (" (out of memory, perhaps)" if name == "SIGKILL" else "")

    def _tell(self, message: ToWorker) -> None:
        assert self._process.stdin is not None
        with suppress(OSError, ValueError):  # it is gone, which its thread tells
            self._process.stdin.write(msgspec.json.encode(message) + b"\n")
            self._process.stdin.flush()

    def _listen(self) -> None:
        assert self._process.stdout is not None and self._process.stdin is not None
        for line in self._process.stdout:
            try:
                message: FromWorker = msgspec.json.decode(line, type=FromWorker)
            except msgspec.MsgspecError:  # half a line, by one that was killed
                continue
            self._on_told(self, message)
        self._process.wait()
        for stream in (self._process.stdout, self._process.stdin):
            with suppress(OSError):  # what is not written yet, nobody reads
                stream.close()
        self._on_told(self, None)
