"""The folder of prepared pixels: whole entries, a bound, other people's files left alone."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from clipfit_cli.data.pixels import disk_cache
from clipfit_cli.data.pixels.disk_cache import DiskCache, cache_usage, clear_cache, default_cache_folder
from clipfit_cli.errors import ConfigError, DataError

HEAD = 12


def key_of(text: object) -> str:
    return hashlib.sha256(str(text).encode()).hexdigest()


def open_cache(folder: Path, limit_bytes: int = 10**6, notes: list[str] | None = None) -> DiskCache:
    return DiskCache(folder, limit_bytes=limit_bytes, on_note=None if notes is None else notes.append)


def read(cache: DiskCache, k: int, num_bytes: int) -> bytes | None:
    found = cache.get(key_of(k), num_bytes)
    return None if found is None else bytes(found)


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_what_is_put_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "below" / "cache"
    cache = open_cache(folder)
    assert cache.get(key_of(1), 5) is None and not folder.exists()
    assert cache.put(key_of(1), b"hello") and cache.put(key_of(2), b"")
    found = open_cache(folder).get(key_of(1), 5)
    assert found is not None and bytes(found) == b"hello" and not found.readonly
    assert read(cache, 2, 0) == b""
    assert cache.get(key_of(3), 5) is None
    assert cache_usage(folder) == disk_cache.CacheUsage(folder, 2, 0, 5 + 2 * HEAD)


def test_two_kinds_share_folder_and_limit(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    cache = open_cache(folder)
    assert cache.put(key_of(1), b"hello") and cache.put(key_of(1), b"abcd", "features")
    assert read(cache, 1, 5) == b"hello"
    found = cache.get(key_of(1), 4, "features")
    assert found is not None and bytes(found) == b"abcd" and cache.get(key_of(2), 4, "features") is None
    assert cache_usage(folder) == disk_cache.CacheUsage(folder, 1, 1, 9 + 2 * HEAD)
    assert clear_cache(folder) == disk_cache.CacheUsage(folder, 1, 1, 9 + 2 * HEAD) and not folder.exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[:-1],
        lambda b: b + b"x",
        lambda b: b"",
        lambda b: b[:HEAD],
        lambda b: b[:-1] + bytes([b[-1] ^ 1]),
        lambda b: b"x" + b[1:],
        lambda b: bytes(len(b)),
    ],
)
def test_a_damaged_entry_is_dropped(damage: Any, tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    cache.put(key_of(1), b"some pixels")
    (file,) = files_of(tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    assert cache.get(key_of(1), 11) is None
    assert files_of(tmp_path) == []
    assert cache.put(key_of(1), b"some pixels") and read(cache, 1, 11) == b"some pixels"


def test_an_entry_under_another_name_is_damaged(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    cache.put(key_of(1), b"one")
    cache.put(key_of(2), b"two")
    one, two = cache._path(key_of(1), "pixels"), cache._path(key_of(2), "pixels")
    shutil.copy(one, two)
    assert cache.get(key_of(2), 3) is None and read(cache, 1, 3) == b"one"


def test_what_was_used_least_lately_goes_first(tmp_path: Path) -> None:
    size = 100 - HEAD
    cache = open_cache(tmp_path, limit_bytes=1000)
    for k in range(9):
        cache.put(key_of(k), bytes([k]) * size)
        os.utime(cache._path(key_of(k), "pixels"), (k, k))
    assert cache.get(key_of(0), size) is not None, "this one is young again"
    cache.put(key_of(9), bytes(size))
    cache.put(key_of(10), bytes(size))
    held = [k for k in range(11) if cache.get(key_of(k), size) is not None]
    assert held == [0, 2, 3, 4, 5, 6, 7, 8, 9, 10]


@pytest.mark.parametrize("limit", [500, 1000, 5000])
def test_the_limit_holds(limit: int, tmp_path: Path) -> None:
    first, second = open_cache(tmp_path, limit), open_cache(tmp_path, limit)
    sizes = [100, 3, 60, 7, 88]
    for k in range(150):
        assert (first, second)[k % 2].put(key_of(k), bytes(sizes[k % len(sizes)] - 3))
        assert cache_usage(tmp_path).num_bytes <= limit
    assert cache_usage(tmp_path).num_bytes > limit / 2


def test_an_entry_above_the_limit_is_not_kept(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, limit_bytes=100)
    assert not cache.put(key_of(1), bytes(101 - HEAD))
    assert cache.put(key_of(2), bytes(100 - HEAD)) and cache.put(key_of(3), bytes(100 - HEAD))
    assert cache_usage(tmp_path).num_pixels == 1


def test_a_full_disk_is_noted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    cache = open_cache(tmp_path, notes=notes)
    cache.put(key_of(1), b"one")
    real = Path.open

    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *exception: object) -> None:
            self.file.close()

        def write(self, content: bytes) -> None:
            self.file.write(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda self, mode="r": Full(real(self, mode)) if "x" in mode else real(self, mode))
        assert not cache.put(key_of(2), b"two") and not cache.put(key_of(3), b"three")
    assert not cache.put(key_of(2), b"two"), "it stays as it is"
    assert notes == [f"the image cache {tmp_path} takes no more images: No space left on device"]
    assert read(cache, 1, 3) == b"one" and len(files_of(tmp_path)) == 1


def test_some_of_the_disk_is_left_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    usage = shutil.disk_usage(tmp_path)._replace(free=disk_cache.FREE_DISK_BYTES)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert not open_cache(tmp_path, notes=notes).put(key_of(1), b"one")
    assert notes == [f"the image cache {tmp_path} takes no more images: less than 1024 MiB of the disk are free"]
    assert not open_cache(tmp_path).put(key_of(1), b"one") and files_of(tmp_path) == []


def test_old_entries_that_cannot_go_end_the_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    cache = open_cache(tmp_path, limit_bytes=100, notes=notes)
    assert cache.put(key_of(1), bytes(60))

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    assert not cache.put(key_of(2), bytes(60))
    assert notes == [f"the image cache {tmp_path} takes no more images: its oldest entries cannot be removed"]


def test_an_entry_that_is_open_elsewhere_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = open_cache(tmp_path)
    cache.put(key_of(1), b"one")

    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    assert cache.put(key_of(1), b"one")
    assert len(files_of(tmp_path)) == 1


def test_emptied_between_two_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    cache = open_cache(tmp_path / "cache", notes=notes)
    real = Path.replace

    def emptied(self: Path, target: Path) -> Path:
        shutil.rmtree(tmp_path / "cache")
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", emptied)
        assert not cache.put(key_of(1), b"one")
    assert notes == [] and cache.put(key_of(1), b"one")


def test_clear_removes_only_the_caches_own_files(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    for k in range(3):
        cache.put(key_of(k), b"pixels")
    (tmp_path / "ab").mkdir(exist_ok=True)
    unfinished = tmp_path / "ab" / f".{'0' * 32}.clipfit-pixels"
    strangers = [
        tmp_path / "notes.txt",
        tmp_path / "ab" / "photo.jpg",
        tmp_path / "ab" / "short.clipfit-pixels",
        tmp_path / "abc" / f"{'0' * 62}.clipfit-pixels",
        tmp_path / f"{'0' * 62}.clipfit-pixels",
    ]
    for path in (unfinished, *strangers):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"12345")
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / f"{'0' * 62}.clipfit-pixels").write_bytes(b"x")
    (tmp_path / "cd").symlink_to(outside)
    removed = clear_cache(tmp_path)
    assert (removed.num_pixels, removed.num_bytes) == (3, 3 * (6 + HEAD) + 5)
    assert files_of(tmp_path) == sorted(strangers) and len(files_of(outside)) == 1
    assert cache_usage(tmp_path).num_pixels == 0
    assert cache.put(key_of(1), b"pixels"), "it goes on"


def test_clear_leaves_no_empty_folder(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    assert clear_cache(folder).num_pixels == 0
    open_cache(folder).put(key_of(1), b"one")
    clear_cache(folder)
    assert not folder.exists()


def test_clear_says_what_it_cannot_remove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = open_cache(tmp_path)
    cache.put(key_of(1), b"one")

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(DataError, match=r"cannot remove .*clipfit-pixels: Permission denied"):
        clear_cache(tmp_path)


def test_what_a_killed_process_left_goes_when_it_is_old(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    cache.put(key_of(1), b"one")
    folder = cache._path(key_of(1), "pixels").parent
    old, new = folder / f".{'0' * 32}.clipfit-pixels", folder / f".{'1' * 32}.clipfit-pixels"
    for path, age in ((old, 7200), (new, 60)):
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age,) * 2)
    open_cache(tmp_path).put(key_of(2), b"two")
    assert not old.exists() and new.exists()
    assert cache_usage(tmp_path).num_pixels == 2


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
from clipfit_cli.data.pixels.disk_cache import DiskCache
cache = DiskCache(Path(sys.argv[1]), limit_bytes=int(sys.argv[2]), on_note=lambda text: sys.exit(text))
found = 0
for turn in range(3):
    for k in range(200):
        key = hashlib.sha256(str(k).encode()).hexdigest()
        content = key.encode() * 16
        entry = cache.get(key, len(content))
        if entry is None:
            cache.put(key, content)
        elif entry != content:
            sys.exit("wrong content")
        else:
            found += 1
print(found)
"""


@pytest.mark.parametrize(("limit", "fewest"), [(10**7, 400), (100_000, 0)], ids=["roomy", "tight"])
def test_two_processes_fill_one_cache(limit: int, fewest: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", FILL, str(tmp_path), str(limit)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    most = 0
    while any(process.poll() is None for process in processes):
        most = max(most, cache_usage(tmp_path).num_bytes)
        time.sleep(0.002)
    found = [int(process.communicate()[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0] and min(found) >= fewest
    assert cache_usage(tmp_path).num_bytes <= limit
    assert most <= 1.1 * limit, "the count itself takes time, so that it may see a file and its successor"
    assert not [path for path in files_of(tmp_path) if path.name.startswith(".")]


def test_threads_fill_one_cache(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, limit_bytes=5000)

    def fill() -> None:
        for k in range(100):
            content = bytes([k]) * 100
            assert cache.get(key_of(k), 100) in (None, content)
            cache.put(key_of(k), content)

    threads = [threading.Thread(target=fill) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache_usage(tmp_path).num_bytes <= 5000
