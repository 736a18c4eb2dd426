"""The budget follows the memory that is free, also inside a container."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clipfit_cli.data.pixels import memory
from clipfit_cli.data.pixels.images import ImageStore

GIB = 2**30


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 24 GiB available, in no control group."""
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "groups")
    (tmp_path / "meminfo").write_text(f"MemTotal: {32 * 2**20} kB\nMemAvailable: {24 * 2**20} kB\nHugePages_Total: 0\n")
    return tmp_path


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def test_the_machine_alone(system: Path) -> None:
    assert memory.available_mib() == 24 * 1024 and memory.default_budget_mib() == 4096
    (system / "meminfo").write_text(f"MemAvailable: {2 * 2**20} kB\n")
    assert memory.default_budget_mib() == 512
    assert ImageStore().memory_budget_mib == 512 and ImageStore(7).memory_budget_mib == 7


@pytest.mark.parametrize("own", ["0::/", "0::/user/job"])
def test_a_group_of_version_2(own: str, system: Path) -> None:
    (system / "own").write_text(own + "\n")
    write(system / "groups", memory__max=3 * GIB, memory__current=2 * GIB, memory__stat=f"anon 5\ninactive_file {GIB}")
    write(system / "groups" / "user" / "job", memory__max="max", memory__current=GIB)
    assert memory.available_mib() == 2048


def test_the_tightest_group_counts(system: Path) -> None:
    (system / "own").write_text("0::/user/job\n")
    write(system / "groups" / "user", memory__max=8 * GIB, memory__current=GIB)
    write(system / "groups" / "user" / "job", memory__max=GIB, memory__current=2 * GIB)
    assert memory.available_mib() == 0 and memory.default_budget_mib() == 0


def test_a_group_of_version_1(system: Path) -> None:
    (system / "own").write_text("5:cpu,cpuacct:/job\n4:memory:/job\n0::/\n")
    names = {"memory__limit_in_bytes": 4 * GIB, "memory__usage_in_bytes": 3 * GIB}
    write(system / "groups" / "memory" / "job", **names, memory__stat=f"total_inactive_file {GIB // 2}")
    assert memory.available_mib() == 1536


def test_where_the_system_tells_less(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (system / "meminfo").unlink()
    sizes = {"SC_PHYS_PAGES": 2**21, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    assert memory.available_mib() == 4096
    monkeypatch.delattr(os, "sysconf")
    assert memory.available_mib() == 4096 and memory.default_budget_mib() == 1024


def test_this_machine_has_memory() -> None:
    assert 0 < memory.default_budget_mib() <= memory.MOST_MIB
