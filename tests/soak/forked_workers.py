"""Has a sweep fork the processes that make its runs, where it would start them: no start-up for each."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, NoReturn

from clipfit_cli import process
from clipfit_cli.runs import child, worker_process


class ForkedProcess:
    """What a sweep uses of `subprocess.Popen`, for the one program that it starts."""

    in_child: Callable[[], None] = staticmethod(lambda: None)
    """Called first in each."""

    def __init__(self, args: Sequence[str], *, env: Mapping[str, str], **_: Any) -> None:
        """Fork; the other options are those of every worker: both pipes, a session of its own."""
        asks, self._asks = os.pipe()
        self._tells, tells = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.returncode: int | None = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there are threads: those of the fork's parent only listen
            self.pid = os.fork()
        if self.pid == 0:
            _be_the_child(args[-1], env, asks, tells)
        os.close(asks)
        os.close(tells)
        self.stdin: IO[bytes] = os.fdopen(self._asks, "wb")
        self.stdout: IO[bytes] = os.fdopen(self._tells, "rb")

    def wait(self, timeout: float | None = None) -> int:
        """See `subprocess.Popen`; two threads may wait."""
        until = time.monotonic() + (1e9 if timeout is None else timeout)
        while self.returncode is None:
            try:
                found, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # the other thread was faster
                time.sleep(0.001)
                continue
            if found:
                self.returncode = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > until:
                raise subprocess.TimeoutExpired("worker", timeout or 0)
            else:
                time.sleep(0.002)
        return self.returncode

    def kill(self) -> None:
        """See `subprocess.Popen`."""
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        """See `subprocess.Popen`."""
        if self.returncode is None:
            os.kill(self.pid, number)


def install(in_child: Callable[[], None]) -> None:
    """Replace how this process starts workers.

    Args:
        in_child: Called first in each.
    """
    ForkedProcess.in_child = staticmethod(in_child)
    worker_process.start = ForkedProcess  # type: ignore[assignment]


def _be_the_child(parent: str, env: Mapping[str, str], asks: int, tells: int) -> NoReturn:
    """Run what a new interpreter would, and end."""
    code = 1
    try:
        os.setsid()
        os.dup2(asks, 0)
        os.dup2(tells, 1)
        os.closerange(3, 256)
        os.environ.clear()
        os.environ.update(env)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        process._told, process._heard_at = None, -math.inf
        ForkedProcess.in_child()
        sys.argv = ["child", parent]
        child.main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        os.write(2, traceback.format_exc().encode(errors="replace"))
    finally:
        os._exit(code)
