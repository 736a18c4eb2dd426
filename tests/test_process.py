"""What the command sets for its own process."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from clipfit_cli import process
from clipfit_cli.process import Terminated, first_signal_waits

PROBE = """
import ctypes, gc, os, resource
from clipfit_cli import process

process.set_up()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def use(size):
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    libc.free(block)

use(2**27)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    use(2**27)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(os.environ["OMP_WAIT_POLICY"], os.environ["GOMP_SPINCOUNT"], gc.get_threshold()[0])
"""


@pytest.fixture
def own_handler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(process, "_one_s", process._one_s)
    before = signal.signal(signal.SIGTERM, process._terminate)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("own_handler")
def test_the_first_signal_waits_and_the_second_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_one_s", 0)
    seen: list[list[int]] = []
    with pytest.raises(Terminated) as caught, first_signal_waits() as told:
        signal.raise_signal(signal.SIGTERM)
        seen.append([*told])
        signal.raise_signal(signal.SIGTERM)
        seen.append([])
    assert seen == [[signal.SIGTERM]] and caught.value.args == (signal.SIGTERM,)


@pytest.mark.usefixtures("own_handler")
def test_a_signal_that_is_told_twice_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `timeout` does: it tells its command, and then its whole group."""
    monkeypatch.setattr(process, "_one_s", math.inf)
    with pytest.raises(Terminated), first_signal_waits() as told:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert told == [signal.SIGTERM]
    signal.raise_signal(signal.SIGTERM)  # outside of any block, too
    monkeypatch.setattr(process, "_one_s", 0)
    with pytest.raises(Terminated):
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.usefixtures("own_handler")
def test_where_another_process_kills_no_second_signal_is_heard() -> None:
    process.hear_one_signal()
    with pytest.raises(Terminated), first_signal_waits() as told:
        for passed_s in (0.0, 0.0, 1e6):
            process._heard_at -= passed_s
            signal.raise_signal(signal.SIGTERM)
        assert told == [signal.SIGTERM]


@pytest.mark.usefixtures("own_handler")
def test_a_signal_that_nobody_looked_at_ends_the_block_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_one_s", 0.0)
    done: list[str] = []
    with pytest.raises(Terminated), first_signal_waits():
        signal.raise_signal(signal.SIGTERM)
        done.append("all of it")
    assert done
    with pytest.raises(Terminated):
        signal.raise_signal(signal.SIGTERM)  # outside of any block, at once
    with first_signal_waits() as told:
        pass
    assert told == []
    with pytest.raises(ValueError, match="of its own"), first_signal_waits():
        signal.raise_signal(signal.SIGTERM)
        raise ValueError("an error of its own")


@pytest.mark.parametrize(
    "way", ["weakref.finalize(thing, signal.raise_signal, signal.SIGTERM)", "weakref.ref(thing, f)"]
)
def test_a_signal_in_a_callback_whose_errors_python_drops_is_not_lost(way: str) -> None:
    code = f"""
import signal, time, weakref
from clipfit_cli import process

def f(_):
    signal.raise_signal(signal.SIGTERM)

class Thing: pass

process.set_up()
thing = Thing()
kept = {way}
try:
    del thing
    time.sleep(60)
except process.Terminated as error:
    print("ended by", error.args[0])
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "ended by 15\n" and done.stderr == ""


def test_other_errors_that_python_drops_are_told() -> None:
    code = "from clipfit_cli import process; process.set_up()\nclass Thing:\n def __del__(self): 1 / 0\nThing()"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "Exception ignored in" in done.stderr and "ZeroDivisionError" in done.stderr


def probe(**environment: str) -> tuple[int, str]:
    """Return how many pages were asked for again, and what else was set."""
    command = [sys.executable, "-c", PROBE]
    others = ("MALLOC_", "GLIBC_", "OMP_", "GOMP_")
    own = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    out = subprocess.run(command, env={**own, **environment}, check=True, capture_output=True, text=True).stdout
    faults, rest = out.splitlines()
    return int(faults), rest


def has_glibc() -> bool:
    return sys.platform == "linux" and "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")


@pytest.mark.skipif(not has_glibc(), reason="only glibc's malloc is set")
def test_freed_memory_is_kept() -> None:
    faults, rest = probe()
    assert faults < 100 and rest == "PASSIVE 6000 100000"


@pytest.mark.skipif(not has_glibc(), reason="only glibc's malloc is set")
def test_the_environment_decides_where_it_says_something() -> None:
    faults, rest = probe(MALLOC_MMAP_THRESHOLD_="1048576", OMP_WAIT_POLICY="ACTIVE", GOMP_SPINCOUNT="7")
    assert faults >= 4 * 2**27 // 2**21, "each block is fetched anew, in the largest pages at the least"
    assert rest == "ACTIVE 7 100000"


@pytest.mark.skipif(not has_glibc(), reason="only glibc's malloc is set")
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak cannot be reset here")
@pytest.mark.slow
def test_what_one_run_freed_does_not_count_as_memory_of_the_next() -> None:
    code = """
from clipfit_cli import process
process.keep_freed_memory()
import torch
from clipfit_cli.engine.environment import PeakMemory
memory = PeakMemory(torch.device("cpu"))
blocks = [torch.ones(4 << 20) for _ in range(20)]  # 16 MiB each, the first half of them freed
kept = torch.ones(1)
del blocks[:10]
full = memory.mib()
memory.begin()
print(full - memory.mib())
"""
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert float(out) > 150
