"""Command lines run one after another without a start-up each: one process that has all imported, forked for each."""

from __future__ import annotations

import atexit
import ctypes
import faulthandler
import gc
import importlib
import io
import os
import pkgutil
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

from tests.soak import guard

ROOT = Path(__file__).parents[2]
CLOSED_NETWORK = {
    **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9"),
    "HF_ENDPOINT": "http://127.0.0.1:9",
}
_MIB = 2**20
_ROOM = 6 * 2**30
_CAPABILITIES = (1, 2, 3)
"""dac_override, dac_read_search, fowner: what lets root read and change what it has no permission for."""
_MNT_DETACH = 2
_CLONE_NEWNS, _MS_REC, _MS_PRIVATE = 0x20000, 0x4000, 0x40000
_PR_CAPBSET_DROP, _PR_SET_PDEATHSIG = 24, 1
_FLUSH_FAILED = 120
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

Stdout = Literal["file", "closed", "full", "gone"]


@dataclass(frozen=True)
class Command:
    """One command line and the circumstances under which it runs.

    Attributes:
        arguments: Behind ``clipfit``.
        world: All that it may change; also where it starts.
        environment: All of it, but for what keeps the network closed.
        stdout: A file, closed, the full device, or a pipe that nobody reads.
        encoding: Of stdout and stderr.
        signal: One to send, and after how many seconds.
        deleted_folder: Whether it starts in a folder that is gone.
        prepare: Called in the process of the command before it begins.
    """

    arguments: tuple[str, ...]
    world: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    stdout: Stdout = "file"
    encoding: str = "utf-8"
    signal: tuple[signal.Signals, float] | None = None
    deleted_folder: bool = False
    prepare: Callable[[], None] | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a command.

    Attributes:
        code: Exit code; negative: the signal it died by.
        hung: Whether it had to be killed.
        peak_mib: Resident memory above that of the process it was forked from.
        guarded: What the guard noted.
    """

    code: int
    hung: bool
    seconds: float
    peak_mib: float
    stdout: str
    stderr: str
    guarded: str


def die_with_parent() -> None:
    """Have the kernel end this process with the one that started it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def import_everything() -> None:
    """Import the package, and what it imports inside of functions, with a single thread."""
    os.environ.update(CLOSED_NETWORK)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    package: Any = importlib.import_module("clipfit_cli")
    for module in pkgutil.walk_packages(package.__path__, "clipfit_cli."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("pandas", "open_clip", "torchvision", "safetensors.torch", "huggingface_hub", "datasets", "requests"):
        with suppress(ImportError):
            importlib.import_module(name)
    importlib.import_module("torch").set_num_threads(1)
    gc.collect()
    gc.freeze()


def place_in_memory() -> Path:
    """Return a new folder whose files are kept in memory, where the system lets us; they are gone with this process."""
    place = Path(tempfile.mkdtemp(prefix="soak-"))
    libc = ctypes.CDLL(None)
    if sys.platform == "linux" and libc.unshare(_CLONE_NEWNS) == 0:
        libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
        libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 0, b"size=2g,mode=700")
    return place


class _Files:
    """Where the output of a command goes."""

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.folder = folder
        self.stdout, self.stderr, self.guarded = folder / "stdout", folder / "stderr", folder / "guarded"
        for path in (self.stdout, self.stderr, self.guarded):
            path.touch()

    def outcome(self, code: int, hung: bool, seconds: float, peak_mib: float) -> Outcome:
        texts = []
        for path in (self.stdout, self.stderr, self.guarded):
            with path.open("rb") as file:
                texts.append(file.read(20 * _MIB).decode("utf-8", "surrogateescape"))
        return Outcome(code, hung, seconds, peak_mib, *texts)


@dataclass(frozen=True)
class Started:
    """A command that runs in a fork of this process."""

    command: Command
    process: int
    files: _Files
    began: float

    def wait(self, patience_s: float) -> Outcome:
        """Wait for its end, kill it where that does not come, and return what came of it."""
        hung = not _wait(self.process, self.command, patience_s)
        _, status, usage = os.wait4(self.process, 0)
        peak_mib = usage.ru_maxrss / 1024 - _status_mib("VmRSS")
        return self.files.outcome(os.waitstatus_to_exitcode(status), hung, time.monotonic() - self.began, peak_mib)


def leave(place: Path) -> None:
    """Remove what `place_in_memory` made."""
    if ctypes.CDLL(None).umount2(os.fsencode(place), _MNT_DETACH):
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.rmdir()


def start_forked(command: Command, *, patience_s: float = 60, output: str = "output") -> Started:
    """Start a command in a fork of this process, in which `import_everything` has to have been called.

    Args:
        command: What runs.
        patience_s: A little before that it says on stderr where it is.
        output: End of the name of the folder that takes its output.
    """
    files = _Files(command.world.parent / f"{command.world.name}-{output}")
    sys.stdout.flush()
    sys.stderr.flush()
    began = time.monotonic()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until the command heeds them
    process = os.fork()
    if process == 0:
        _be_the_command(command, files, patience_s)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    return Started(command, process, files, began)


def run_forked(command: Command, *, patience_s: float = 60) -> Outcome:
    """Run a command in a fork of this process; see `start_forked`."""
    return start_forked(command, patience_s=patience_s).wait(patience_s)


def run_afresh(command: Command, *, patience_s: float = 60) -> Outcome:
    """Run a command as a shell does, start-up and all."""
    files = _Files(command.world.parent / f"{command.world.name}-output")
    (files.folder / "sitecustomize.py").write_text("from tests.soak.guard import guard_as_told\n\nguard_as_told()\n")
    environment = {
        **{name: value for name, value in os.environ.items() if name in ("PATH", "LD_LIBRARY_PATH")},
        **CLOSED_NETWORK,
        "OMP_NUM_THREADS": "1",
        **command.environment,
        "PYTHONPATH": f"{files.folder}:{ROOT}",
        "PYTHONDONTWRITEBYTECODE": "1",
        guard.WORLD_VARIABLE: str(command.world),
        guard.LOG_VARIABLE: str(files.guarded),
    }
    if command.encoding != "utf-8":
        environment["PYTHONIOENCODING"] = command.encoding

    def prepare() -> None:
        _set_the_scene(command, files)
        _drop_capabilities()

    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "clipfit_cli", *command.arguments], env=environment, preexec_fn=prepare, close_fds=False
    )
    hung = not _wait(process.pid, command, patience_s)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return files.outcome(process.returncode, hung, time.monotonic() - began, usage.ru_maxrss / 1024 - 500)


def _wait(process: int, command: Command, patience_s: float) -> bool:
    """Wait for the end of a process; send its signal meanwhile; return False where it had to be killed."""
    descriptor = os.pidfd_open(process)
    try:
        left = patience_s
        if command.signal:
            number, after_s = command.signal
            if select.select([descriptor], [], [], after_s)[0]:
                return True
            os.kill(process, number)
            left -= after_s
        if select.select([descriptor], [], [], left)[0]:
            return True
        os.killpg(process, signal.SIGKILL)
        return False
    finally:
        os.close(descriptor)


def _set_the_scene(command: Command, files: _Files) -> None:
    """Lay stdin, stdout and stderr, and go to the folder where the command starts."""
    os.setsid()
    die_with_parent()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if command.stdout == "gone":
        reader, writer = os.pipe()
        os.close(reader)
    else:
        place = "/dev/full" if command.stdout == "full" else files.stdout
        writer = os.open(place, os.O_WRONLY | os.O_APPEND)
    os.dup2(writer, 1)
    os.dup2(os.open(files.stderr, os.O_WRONLY | os.O_APPEND), 2)
    os.closerange(3, 256)
    if command.stdout == "closed":
        os.close(1)
    os.chdir(command.world)
    if command.deleted_folder:
        os.mkdir("gone")
        os.chdir("gone")
        os.rmdir("../gone")


def _be_the_command(command: Command, files: _Files, patience_s: float) -> NoReturn:
    """Run the command in this process, as the interpreter would, and end it."""
    code = 99
    try:
        _set_the_scene(command, files)
        os.environ.clear()
        os.environ.update({**CLOSED_NETWORK, "OMP_NUM_THREADS": "1", **command.environment})
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stdout = None if command.stdout == "closed" else _text(1, command.encoding, "strict")
        sys.stderr = _text(2, command.encoding, "backslashreplace")
        sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr  # type: ignore[misc]
        _drop_capabilities()
        taken = _status_mib("VmSize") * _MIB
        resource.setrlimit(resource.RLIMIT_AS, (int(taken + _ROOM), resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        faulthandler.dump_traceback_later(0.9 * patience_s, file=2)
        if command.prepare:
            command.prepare()
        guard.guard(str(command.world), str(files.guarded))
        code = _ended(_main(command.arguments))
    except KeyboardInterrupt as error:  # the command has ended, and signals are not ignored yet
        code = _ended(128 + (error.args[0] if error.args else signal.SIGINT))
    except BaseException:
        os.write(2, traceback.format_exc().encode(errors="replace"))
    finally:
        os._exit(code)


def _main(arguments: tuple[str, ...]) -> int:
    """Return the exit code of the console script, tracebacks printed as the interpreter prints them."""
    sys.argv = ["clipfit", *arguments]
    process = importlib.import_module("clipfit_cli.process")
    set_up = process.set_up

    def set_up_and_listen() -> None:
        set_up()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    setattr(process, "set_up", set_up_and_listen)  # noqa: B010
    try:
        importlib.import_module("clipfit_cli.__main__").main()
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        print(error.code, file=sys.stderr)
        return 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _ended(code: int) -> int:
    """Return the exit code after all that the interpreter does at its end."""
    for number in _SIGNALS:  # what comes now meets torch's own clearing up
        signal.signal(number, signal.SIG_IGN)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    failed = False
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except BaseException as error:
            os.write(2, f"Exception ignored: {error!r}\n".encode())
            failed = True
    return _FLUSH_FAILED if failed else code


def _text(descriptor: int, encoding: str, errors: str) -> io.TextIOWrapper:
    raw = io.FileIO(descriptor, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=descriptor == 2)


def _drop_capabilities() -> None:
    """Have root heed the permissions of files, as every other user does, here and in programs that it starts."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    libc.capget(header, data)
    for capability in _CAPABILITIES:
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        for word in range(3):
            data[word] &= ~(1 << capability)
    if libc.capset(header, data):
        raise OSError(ctypes.get_errno(), "capset")


def _status_mib(key: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:"))
