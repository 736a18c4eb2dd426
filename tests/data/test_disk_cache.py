"""The folder of features: whole files, a bound, other people's files left alone."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from clipfit_cli.data.pixels import disk_cache
from clipfit_cli.data.pixels.disk_cache import DiskCache, cache_usage, clear_cache, default_cache_folder
from clipfit_cli.errors import ConfigError, DataError

SHAPE = (5, 3)


def key_of(text: object) -> str:
    return hashlib.sha256(str(text).encode()).hexdigest()


def features_of(seed: int, shape: tuple[int, int] = SHAPE) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def open_cache(folder: Path, limit_bytes: int = 10**6, notes: list[str] | None = None) -> DiskCache:
    noted: list[str] = [] if notes is None else notes
    return DiskCache(folder, limit_bytes=limit_bytes, on_note=noted.append)


def holds(cache: DiskCache, k: int) -> bool:
    found = cache.get(key_of(k), SHAPE)
    assert found is None or np.array_equal(found, features_of(k))
    return found is not None


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def size(tmp_path: Path) -> int:
    """Bytes of a file."""
    open_cache(tmp_path / "other").put(key_of(0), list(features_of(0)))
    return cache_usage(tmp_path / "other").num_bytes


def test_what_is_put_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "below" / "cache"
    cache = open_cache(folder)
    assert not holds(cache, 1) and not folder.exists()
    for k in (1, 2):
        cache.put(key_of(k), list(features_of(k)))
    assert holds(open_cache(folder), 1) and holds(cache, 2) and not holds(cache, 3)
    found = cache.get(key_of(1), SHAPE)
    assert found is not None and found.dtype == np.float32 and found.flags.writeable
    files = files_of(folder)
    assert list(load_file(files[0])) == ["features"], "anybody can read it"
    assert cache_usage(folder) == disk_cache.CacheUsage(2, sum(file.stat().st_size for file in files))
    cache.put(key_of(1), list(features_of(1)))
    assert holds(cache, 1) and files_of(folder) == files


def another(**tensors: NDArray[np.generic]) -> Callable[[Path], None]:
    return lambda path: save_file(tensors, path, {"sha256": "0" * 64})


def edited(edit: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_bytes(edit(path.read_bytes()))

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        edited(lambda b: b[:-1]),
        edited(lambda b: b + b"x"),
        edited(lambda b: b""),
        edited(lambda b: b[:-1] + bytes([b[-1] ^ 1])),
        edited(lambda b: b[:20] + bytes([b[20] ^ 4]) + b[21:]),
        edited(lambda b: b"\xff" * 8 + b[8:]),
        edited(lambda b: b.replace(b'"F32"', b'"I32"')),
        edited(lambda b: b.replace(b'"F32", "shape": [5, 3]', b'"BF16","shape": [5, 6]')),
        edited(lambda b: b.replace(b"[5, 3]", b"[3, 5]")),
        another(features=features_of(1)),
        another(other=features_of(1)),
    ],
)
def test_a_damaged_file_is_dropped(damage: Callable[[Path], None], tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    cache.put(key_of(1), list(features_of(1)))
    (file,) = files_of(tmp_path)
    before = file.read_bytes()
    damage(file)
    assert file.read_bytes() != before
    assert not holds(cache, 1) and files_of(tmp_path) == []
    cache.put(key_of(1), list(features_of(1)))
    assert holds(cache, 1)


def test_a_file_of_another_shape_or_key_is_damaged(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    for k in (1, 2, 3):
        cache.put(key_of(k), list(features_of(k)))
    assert cache.get(key_of(3), (3, 5)) is None and not holds(cache, 3)
    shutil.copy(cache._path(key_of(1)), cache._path(key_of(2)))
    assert not holds(cache, 2) and holds(cache, 1)


def test_writing_takes_no_memory(tmp_path: Path) -> None:
    rows = list(features_of(1, (5000, 512)))
    cache = open_cache(tmp_path, 10**8)
    tracemalloc.start()
    try:
        cache.put(key_of(1), rows)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10**6 < 5000 * 512 * 4
    found = cache.get(key_of(1), (5000, 512))
    assert found is not None and np.array_equal(found, features_of(1, (5000, 512)))


def test_what_was_used_least_lately_goes_first(tmp_path: Path, size: int) -> None:
    cache = open_cache(tmp_path / "cache", limit_bytes=3 * size)
    for k in (1, 2, 3):
        cache.put(key_of(k), list(features_of(k)))
        os.utime(cache._path(key_of(k)), (k, k))
    assert holds(cache, 1), "this one is young again"
    cache.put(key_of(4), list(features_of(4)))
    assert [k for k in (1, 2, 3, 4) if holds(cache, k)] == [1, 3, 4]
    assert cache_usage(tmp_path / "cache").num_bytes <= 3 * size


def test_a_list_above_the_limit_is_not_kept(tmp_path: Path, size: int) -> None:
    notes: list[str] = []
    cache = open_cache(tmp_path / "cache", size - 1, notes)
    cache.put(key_of(1), list(features_of(1)))
    assert not holds(cache, 1) and notes == [] and not (tmp_path / "cache").exists()


def test_a_full_disk_is_noted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    cache = open_cache(tmp_path, notes=notes)
    cache.put(key_of(1), list(features_of(1)))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        cache.put(key_of(2), list(features_of(2)))
    cache.put(key_of(3), list(features_of(3)))
    assert notes == [f"the image cache {tmp_path} takes no more: No space left on device"]
    assert holds(cache, 1) and len(files_of(tmp_path)) == 1


def test_some_of_the_disk_is_left_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    usage = shutil.disk_usage(tmp_path)._replace(free=disk_cache.FREE_DISK_BYTES)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    open_cache(tmp_path, notes=notes).put(key_of(1), list(features_of(1)))
    assert notes == [f"the image cache {tmp_path} takes no more: less than 1024 MiB of the disk are free"]
    assert files_of(tmp_path) == []


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "file/below"])
def test_a_folder_that_cannot_be_is_noted(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    notes: list[str] = []
    cache = open_cache(tmp_path / name, notes=notes)
    for _ in range(2):
        assert not holds(cache, 1)
        cache.put(key_of(1), list(features_of(1)))
    assert len(notes) == 1 and notes[0].startswith(f"the image cache {tmp_path / name} takes no more: ")
    assert cache_usage(tmp_path / name) == clear_cache(tmp_path / name) == disk_cache.CacheUsage(0, 0)


@pytest.mark.skipif(os.getuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_may_only_be_read(tmp_path: Path) -> None:
    notes: list[str] = []
    cache = open_cache(tmp_path, notes=notes)
    cache.put(key_of(1), list(features_of(1)))
    folders = [cache._path(key_of(1)).parent, tmp_path]
    for folder in folders:
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        cache.put(key_of(2), list(features_of(2)))
        assert holds(cache, 1) and len(notes) == 1
    finally:
        for folder in folders:
            folder.chmod(stat.S_IRWXU)


def test_something_else_under_its_name_is_no_entry(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    path = cache._path(key_of(1))
    path.parent.mkdir()
    os.mkfifo(path)
    assert not holds(cache, 1)
    path.unlink()
    path.mkdir()
    assert not holds(cache, 1)


def test_clear_removes_only_the_caches_own_files(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    for k in range(3):
        cache.put(key_of(k), list(features_of(k)))
    held = cache_usage(tmp_path)
    unfinished = tmp_path / "ab" / f".{'0' * 62}.clipfit-features.abc_123.unfinished"
    strangers = [
        tmp_path / "notes.txt",
        tmp_path / "ab" / "photo.jpg",
        tmp_path / "ab" / "short.clipfit-features",
        tmp_path / "abc" / f"{'0' * 62}.clipfit-features",
        tmp_path / f"{'0' * 62}.clipfit-features",
    ]
    for path in (unfinished, *strangers):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"12345")
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / f"{'0' * 62}.clipfit-features").write_bytes(b"x")
    (tmp_path / "cd").symlink_to(outside)
    assert clear_cache(tmp_path) == held == disk_cache.CacheUsage(3, held.num_bytes)
    assert files_of(tmp_path) == sorted(strangers) and len(files_of(outside)) == 1
    assert cache_usage(tmp_path).num_lists == 0
    cache.put(key_of(1), list(features_of(1)))
    assert holds(cache, 1), "it goes on"


def test_clear_leaves_no_empty_folder(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    assert clear_cache(folder).num_lists == 0
    for k in range(3):
        open_cache(folder).put(key_of(k), list(features_of(k)))
    clear_cache(folder)
    assert not folder.exists()


def test_clear_says_what_it_cannot_remove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = open_cache(tmp_path)
    cache.put(key_of(1), list(features_of(1)))

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(DataError, match=r"cannot remove .*clipfit-features: Permission denied"):
        clear_cache(tmp_path)


def test_what_a_killed_process_left_goes_with_the_next_list(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    left = cache._path(key_of(1)).with_name(f".{cache._path(key_of(1)).name}.abc_123.unfinished")
    left.parent.mkdir()
    left.write_bytes(b"half")
    cache.put(key_of(2), list(features_of(2)))
    assert not left.exists() and cache_usage(tmp_path).num_lists == 1


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="size of the image cache must be above 0"):
        open_cache(tmp_path, 0)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file; name a folder"):
        open_cache(tmp_path / "file")


def test_default_folder_is_the_users() -> None:
    assert default_cache_folder().name == "images" and "clipfit" in default_cache_folder().parts


FILL = """
import hashlib, sys
from pathlib import Path
import numpy as np
from clipfit_cli.data.pixels.disk_cache import DiskCache
cache = DiskCache(Path(sys.argv[1]), limit_bytes=int(sys.argv[2]), on_note=lambda text: sys.exit(text))
found = 0
for turn in range(3):
    for k in range(40):
        key = hashlib.sha256(str(k).encode()).hexdigest()
        features = np.full((20, 16), k, np.float32)
        kept = cache.get(key, (20, 16))
        if kept is None:
            cache.put(key, list(features))
        elif not np.array_equal(kept, features):
            sys.exit("wrong content")
        else:
            found += 1
print(found)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "fewest"), [(10**7, 80), (20_000, 0)], ids=["roomy", "tight"])
def test_two_processes_fill_one_cache(limit: int, fewest: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", FILL, str(tmp_path), str(limit)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    found = [int(process.communicate()[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0] and min(found) >= fewest
    assert cache_usage(tmp_path).num_bytes <= 2 * limit
    assert not [path for path in files_of(tmp_path) if path.name.startswith(".")]


def test_one_process_at_a_time_makes_features(tmp_path: Path) -> None:
    one, other = (open_cache(tmp_path) for _ in range(2))
    with one.making(key_of(1), waits=False) as first, other.making(key_of(1), waits=False) as second:
        assert (first, second) == (True, False)
        with other.making(key_of(2), waits=False) as third:
            assert third
    with other.making(key_of(1), waits=False) as is_mine:
        assert is_mine
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_where_a_file_system_has_no_locks_any_process_may_make_a_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock that is a mere file would stay when its holder is killed."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", refuse)
    one, other = open_cache(tmp_path), open_cache(tmp_path)
    with one.making(key_of(1), waits=True) as first, other.making(key_of(1), waits=False) as second:
        assert first and second
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
