"""What tells images apart that are listed alike: content of a user's own, names and sizes of published ones."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clipfit_cli.data.dataset import DataSet
from clipfit_cli.data.files import identity
from clipfit_cli.data.files.identity import by_content, by_size
from clipfit_cli.data.lists.own import hugging_face
from clipfit_cli.data.load import load_dataset
from clipfit_cli.errors import DataError
from tests.data.own_images import write_folder
from tests.data.test_own_readers import KINDS, hub_set, load
from tests.data.trees import small_lists, write_fgvc, write_imagenet, write_split

NAMES = ("a/1.png", "a/2.png", "b/1.png")


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of what is remembered, empty; files count as settled as soon as they are written."""
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *args, **kwargs: tmp_path / "cache")
    monkeypatch.setattr(identity, "YOUNG_NS", 0)
    return tmp_path / "cache" / "digests"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files that are read, as they are."""
    names: list[str] = []
    digest = identity._digest

    def noting(path: Path) -> str:
        names.append(path.name)
        return digest(path)

    monkeypatch.setattr(identity, "_digest", noting)
    return names


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files of ten bytes."""
    for name in NAMES:
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_bytes(f"pixels {name[0]}{name[2]}.".encode())
    tick()
    return tmp_path / "mine"


def tick() -> None:
    """Return when what changes next has a later time stamp than all before."""
    with tempfile.NamedTemporaryFile() as file:
        path = Path(file.name)
        before = path.stat().st_ctime_ns
        while path.stat().st_ctime_ns == before:
            path.touch()


def change(*files: Path, content: bytes | None = None) -> None:
    """Change files where they stand, but neither their size nor the time that they say they were changed."""
    tick()
    for file in files:
        state, old = file.stat(), file.read_bytes()
        with file.open("r+b") as stream:
            stream.write(content or old[:-1] + bytes([old[-1] ^ 1]))
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
        assert file.stat().st_size == state.st_size


def identity_of(dataset: DataSet) -> str:
    assert dataset.identify is not None
    return dataset.identify([item.path for item in (*dataset.train, *dataset.val, *dataset.test)])


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_the_same_and_other_pictures_under_the_same_names_are_not(kind: str, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    text = KINDS[kind](here)
    dataset = load(text)
    shutil.copytree(here, there)
    copied = load(text.replace(str(here), str(there)))
    assert identity_of(dataset) == identity_of(copied) == identity_of(load(text))
    assert dataset.location == text.partition(":")[2] or (text and copied.location.startswith(str(there)))
    images = [file for file in there.rglob("*") if file.suffix in (".png", ".tar", ".arrow")]
    change(*images)
    assert identity_of(copied) != identity_of(dataset), "a data set that was read looks again"
    change(*images)
    assert identity_of(load(text.replace(str(here), str(there)))) == identity_of(dataset)


def test_where_a_data_set_lies_and_which_file_lists_it(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "mine", splits=False)
    dataset = load(str(root), tmp_path / "splits")
    (kept,) = (tmp_path / "splits").iterdir()
    sha256 = hashlib.sha256(kept.read_bytes()).hexdigest()
    assert (dataset.location, dataset.split_file_sha256) == (str(root), sha256)
    assert load(str(root), tmp_path / "splits").split_file_sha256 == sha256, "made before or now"
    assert load(str(write_folder(tmp_path / "split"))).split_file_sha256 == ""
    file = KINDS["csv"](tmp_path)
    assert load(file).split_file_sha256 == hashlib.sha256(Path(file).read_bytes()).hexdigest()


def test_a_folder_is_read_once(folder: Path, read: list[str], memory: Path) -> None:
    first = by_content(folder, NAMES)
    assert sorted(read) == ["1.png", "1.png", "2.png"] and len(list(memory.iterdir())) == 1
    assert by_content(folder, NAMES) == by_content(folder, NAMES[::-1]) == by_content(folder, NAMES * 2) == first
    assert len(read) == 3
    (folder / "a/3.png").write_bytes(b"new")
    tick()
    assert by_content(folder, [*NAMES, "a/3.png"]) != first
    assert read[3:] == ["3.png"]
    by_content(folder, NAMES[:1])
    by_content(folder, NAMES)
    assert len(read) == 4, "what is not asked for is not forgotten"


def test_files_that_were_just_changed_are_read_again(
    folder: Path, read: list[str], memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "YOUNG_NS", 10**18)
    by_content(folder, NAMES)
    os.utime(folder / NAMES[0], (1, 1))  # the time that the system keeps by itself is young, still
    by_content(folder, NAMES)
    assert len(read) == 6 and not memory.exists()
    monkeypatch.setattr(identity, "YOUNG_NS", 0)
    tick()
    ahead = time.time() + 100
    os.utime(folder / NAMES[1], (ahead, ahead))
    by_content(folder, NAMES)
    by_content(folder, NAMES)
    assert len(read) == 10, "so is one from the future"


@pytest.mark.parametrize("way", ["in place", "replaced", "swapped"])
def test_other_pictures_of_the_same_size_and_time_are_seen(way: str, folder: Path) -> None:
    for name in NAMES:
        os.utime(folder / name, (1_600_000_000, 1_600_000_000))
    tick()
    first = by_content(folder, NAMES)
    if way == "in place":
        change(folder / NAMES[0], content=b"other pix.")
    elif way == "replaced":
        (folder.parent / "other").write_bytes(b"other pix.")
        shutil.copystat(folder / NAMES[0], folder.parent / "other")
        (folder.parent / "other").replace(folder / NAMES[0])
    else:
        (folder / "a").rename(folder / "c")
        (folder / "c/1.png").rename(folder / "c/0.png")
        (folder / "c/2.png").rename(folder / "c/1.png")
        (folder / "c/0.png").rename(folder / "c/2.png")
        (folder / "c").rename(folder / "a")
    assert by_content(folder, NAMES) != first


def test_another_file_of_the_same_times_is_seen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system's clock was set back, say, only the place on the disk differs."""
    state = identity._state
    monkeypatch.setattr(identity, "_state", lambda path: (state(path)[0], 1, 1, state(path)[3]))
    first = by_content(folder, NAMES)
    (folder / "other").write_bytes(b"other pix.")
    (folder / "other").replace(folder / NAMES[0])
    assert by_content(folder, NAMES) != first


def test_a_folder_in_the_place_of_another(folder: Path) -> None:
    """The whole folder is exchanged, with the times of the files."""
    first = by_content(folder, NAMES)
    shutil.copytree(folder, folder.parent / "other")
    change(folder.parent / "other" / NAMES[0], content=b"other pix.")
    folder.rename(folder.parent / "old")
    (folder.parent / "other").rename(folder)
    second = by_content(folder, NAMES)
    assert second != first
    folder.rename(folder.parent / "other")
    (folder.parent / "old").rename(folder)
    assert by_content(folder, NAMES) == first


def rewritten(edit: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(edit(file.read_bytes()))


def piped(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def sealed(content: bytes) -> Callable[[Path], object]:
    whole = hashlib.sha256(content).hexdigest().encode() + b"\n" + content
    return lambda file: file.write_bytes(whole)


@pytest.mark.parametrize(
    "damage",
    [
        rewritten(lambda content: b""),
        rewritten(lambda content: content[:-9]),
        rewritten(lambda content: content.replace(b"a/1.png", b"a/2.png")),
        rewritten(lambda content: content[:-20] + bytes([content[-20] ^ 1]) + content[-19:]),
        sealed(b"[" * 100_000),
        sealed(b'{"a/1.png": [[1, 2, 3], "x"]}'),
        sealed(b'{"a/1.png": ' + b"9" * 5000 + b"}"),
        sealed(b"\xff\xfe"),
        lambda file: (file.unlink(), file.mkdir()),
        piped,
    ],
)
def test_a_damaged_memory_counts_as_none(
    damage: Callable[[Path], object], folder: Path, read: list[str], memory: Path
) -> None:
    first = by_content(folder, NAMES)
    (file,) = memory.iterdir()
    damage(file)
    assert by_content(folder, NAMES) == first and len(read) == 6


def test_a_memory_that_cannot_be_written(folder: Path, memory: Path, read: list[str]) -> None:
    memory.parent.parent.mkdir(exist_ok=True)
    memory.parent.write_text("a file")
    assert by_content(folder, NAMES) == by_content(folder, NAMES) and len(read) == 6


def test_several_readers_at_once(folder: Path, memory: Path, read: list[str]) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda number: by_content(folder, NAMES[number % 3 :]), range(24)))
    assert found == {by_content(folder, NAMES[start:]) for start in range(3)}
    assert len(list(memory.iterdir())) == 1, "nothing unfinished is left"


@pytest.mark.parametrize("hashed", [by_content, by_size])
def test_images_that_are_not_there(hashed: Callable[[Path, list[str]], str], folder: Path) -> None:
    for name in ("gone.png", "a/1.png/x", "\0", "x" * 5000):
        with pytest.raises(DataError, match="is missing|cannot be read"):
            hashed(folder, ["a/1.png", name])


@pytest.mark.skipif(sys.platform == "win32", reason="has no pipes")
def test_a_pipe_is_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "a/pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png cannot be read: it is no regular file"):
        by_content(folder, ["a/pipe.png"])


@pytest.mark.parametrize("name", ["dtd", "fgvc_aircraft", "imagenet", "imagenet_sketch"])
def test_published_data_sets_by_names_and_sizes(name: str, tmp_path: Path, read: list[str]) -> None:
    found = []
    parts = ("train/", "val/") if name == "imagenet" else ("",)
    for root, content in (("one", b"12"), ("two", b"21"), ("three", b"123")):
        if name == "dtd":
            write_split(tmp_path / root, name, small_lists(), images=True)
        elif name == "fgvc_aircraft":
            write_fgvc(tmp_path / root, ["707-320", "A/B"], {"train": 2, "val": 1, "test": 2})
        else:
            folders = [f"{part}{wnid}" for part in parts for wnid in ("n01440764", "n01443537")]
            write_imagenet(tmp_path / root, name, {folder: ["1.JPEG"] for folder in folders})
        dataset = load_dataset(name, tmp_path / root)
        for item in (*dataset.train, *dataset.val, *dataset.test):
            file = Path(dataset.location) / item.path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        found.append(identity_of(dataset))
        assert dataset.location.startswith(str(tmp_path / root))
    assert found[0] == found[1] != found[2] and not read


def test_drawn_textures_are_told_by_their_name() -> None:
    for name in ("textures", "textures-sketch"):
        identify = load_dataset(name, Path("nowhere")).identify
        assert identify and identify(["any"]) == name


def test_tables_of_the_hub_by_their_fingerprints(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    tables = {}
    for name, value in (("one", b"1"), ("same", b"1"), ("other", b"2")):
        columns = {"image": [{"bytes": value, "path": None}] * 2, "label": [0, 1]}
        tables[name] = hub_set(columns, label=datasets.ClassLabel(names=["a", "b"]))
    rows = [hugging_face.Rows(Path("hf:x"), {"train": tables[name]}, "image") for name in tables]
    one, same, other = (row.identify(["train/00000000"]) for row in rows)
    assert one == same != other


def test_configurations_of_one_folder_are_told_apart(folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"image": [{"bytes": b"1", "path": None}] * 2, "label": [0, 1]}
    data = hub_set(rows, label=datasets.ClassLabel(names=["a", "b"]))
    table = data.cast_column("image", datasets.Image(decode=False))
    one, other = (hugging_face.Rows(Path("x"), {"all": table}, "image", folder, config) for config in ("a", "b"))
    assert one.identify(["all/00000000"]) != other.identify(["all/00000000"])


def test_images_that_a_table_names_outside_its_folder(folder: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    images = [{"bytes": None, "path": str(folder / name)} for name in NAMES]
    data = hub_set({"image": images, "label": [0, 1, 1]}, label=datasets.ClassLabel(names=["a", "b"]))
    (tmp_path / "saved").mkdir()
    table = data.cast_column("image", datasets.Image(decode=False))
    rows = hugging_face.Rows(Path("hf:saved"), {"all": table}, "image", tmp_path / "saved")
    first = rows.identify(["all/00000000"])
    change(folder / NAMES[0], content=b"other pix.")
    assert rows.identify(["all/00000000"]) != first


def test_what_is_remembered_is_bounded(
    folder: Path, memory: Path, read: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder goes that was not asked for longest."""
    one, two, three = (shutil.copytree(folder, tmp_path / name) for name in ("one", "two", "six"))
    tick()
    by_content(one, NAMES)
    (of_one,) = memory.iterdir()
    by_content(two, NAMES)
    for path in memory.iterdir():
        os.utime(path, (1, 1) if path == of_one else (2, 2))
    size = sum(path.stat().st_size for path in memory.iterdir())
    monkeypatch.setattr(identity, "MOST_REMEMBERED", size)
    by_content(one, NAMES)  # remembered, and the latest by now
    read.clear()
    by_content(three, NAMES)
    assert len(read) == 3 and sum(path.stat().st_size for path in memory.iterdir()) <= size
    by_content(one, NAMES)
    by_content(three, NAMES)
    assert len(read) == 3, "both are remembered"
    by_content(two, NAMES)
    assert len(read) == 6


def test_a_folder_too_large_for_the_bound_is_remembered_alone(
    folder: Path, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "MOST_REMEMBERED", 1)
    memory.mkdir(parents=True)
    (memory / "0").write_text("of another folder")
    (memory / ".x.unfinished").write_text("of another process")
    by_content(folder, NAMES)
    assert {path.name[:1] for path in memory.iterdir()} - {"."} and not (memory / "0").exists()
    assert (memory / ".x.unfinished").exists() and len(list(memory.iterdir())) == 2
