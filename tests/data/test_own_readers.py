"""A user's own images: every form gives the same items, and says what is wrong with it."""

from __future__ import annotations

import io
import os
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipfit_cli.config import OwnDataSet
from clipfit_cli.data.dataset import DataSet
from clipfit_cli.data.files.folder import ImageFolder
from clipfit_cli.data.lists.own import hugging_face, image_folder, table, webdataset
from clipfit_cli.data.lists.own.custom import find_own, read_own
from clipfit_cli.data.pixels.images import ImageStore
from clipfit_cli.data.pixels.transforms import ImageSpec
from clipfit_cli.data.splits import class_subset, few_shot
from clipfit_cli.errors import ConfigError, DataError
from tests.data.own_images import (
    CLASSES,
    add,
    pictures,
    write_csv,
    write_folder,
    write_hf,
    write_jsonl,
    write_rows,
    write_shards,
)

KINDS: dict[str, Callable[[Path], str]] = {
    "folder": lambda root: str(write_folder(root / "mine")),
    "csv": lambda root: str(write_csv(root / "mine.csv", write_rows(root))),
    "jsonl": lambda root: str(write_jsonl(root / "mine.jsonl", write_rows(root))),
    "hf": lambda root: f"hf:{write_hf(root / 'mine')}",
    "wds": lambda root: f"wds:{write_shards(root / 'mine')}",
}


def load(text: str, splits_dir: Path | None = None) -> DataSet:
    own = find_own(text)
    assert own is not None
    return read_own(own, splits_dir)


@pytest.mark.parametrize("kind", KINDS)
def test_every_form_gives_the_same_items(kind: str, tmp_path: Path) -> None:
    dataset = load(KINDS[kind](tmp_path))
    assert dataset.name == "mine"
    assert dataset.class_names == tuple(sorted(CLASSES)) == ("Zebra", "apple", "bee", "red_car", "stone wall")
    for split, items in (("train", dataset.train), ("val", dataset.val), ("test", dataset.test)):
        expected = [one for one in pictures() if one[0] == split]
        assert [dataset.class_names[item.label] for item in items] == [one[1] for one in expected]
        for item, (*_, content) in zip(items, expected, strict=True):
            (tmp_path / "one").write_bytes(content)
            assert np.array_equal(np.asarray(dataset.load_image(item.path)), np.asarray(ImageFolder(tmp_path)("one")))
    assert dataset.train_is_sampled and dataset.samples_val and not dataset.notes


@pytest.mark.parametrize("kind", KINDS)
def test_every_form_gives_the_same_draw(kind: str, tmp_path: Path) -> None:
    dataset, reference = load(KINDS[kind](tmp_path)), load(str(write_folder(tmp_path / "reference")))

    def places(one: DataSet) -> list[int]:
        drawn = class_subset(few_shot(one, shots=2, seed=3), "new")
        assert drawn.class_names == ("red_car", "stone wall")
        return [one.train.index(next(i for i in one.train if i.path == item.path)) for item in drawn.train]

    assert places(dataset) == places(reference)


@pytest.mark.parametrize("kind", KINDS)
def test_images_load_in_threads(kind: str, tmp_path: Path) -> None:
    dataset = load(KINDS[kind](tmp_path))
    spec = ImageSpec(size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    images, store = {}, {}
    for threads in (1, 4):
        store[threads] = ImageStore(threads=threads)
        (batch,) = store[threads].test_batches(dataset, dataset.test, spec, 100)
        images[threads] = batch[0]
        store[threads].close()
    assert (images[1] == images[4]).all() and images[1].shape == (10, 3, 16, 16)


@pytest.mark.parametrize("kind", KINDS)
def test_where_it_lies_does_not_matter(kind: str, tmp_path: Path) -> None:
    hashes = set()
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        hashes.add(load(KINDS[kind](tmp_path / folder)).split_sha256)
    assert len(hashes) == 1


def png(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value, 0, 0)).save(path)


# folders


def test_a_single_tree_has_folders_below_and_other_files(tmp_path: Path) -> None:
    for path in ("b/x/2.PNG", "b/1.png", "a/3.png", "a/.hidden.png", ".cache/4.png"):
        png(tmp_path / path)
    (tmp_path / "b" / "notes.txt").write_text("no image")
    (tmp_path / "readme.md").write_text("no image")
    listing = image_folder.read(tmp_path)
    assert listing.class_names == ("a", "b")
    assert {(entry.path, entry.label, entry.split) for entry in listing.entries} == {
        ("a/3.png", 0, None),
        ("b/1.png", 1, None),
        ("b/x/2.PNG", 1, None),
    }


def test_classes_may_be_called_as_splits_are(tmp_path: Path) -> None:
    for path in ("train/1.png", "bus/1.png"):
        png(tmp_path / path)
    assert image_folder.read(tmp_path).class_names == ("bus", "train")


def test_split_folders_by_other_words(tmp_path: Path) -> None:
    for path in ("Training/a/1.png", "validation/a/2.png", "test/a/3.png", "test/b/4.png", "labels/x.png"):
        png(tmp_path / path)
    listing = image_folder.read(tmp_path)
    assert listing.class_names == ("a", "b")
    assert {(entry.path, entry.split) for entry in listing.entries} == {
        ("Training/a/1.png", "train"),
        ("validation/a/2.png", "val"),
        ("test/a/3.png", "test"),
        ("test/b/4.png", "test"),
    }


@pytest.mark.skipif(sys.platform == "win32", reason="needs links")
def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    png(tmp_path / "mine" / "a" / "1.png")
    png(tmp_path / "elsewhere" / "2.png")
    (tmp_path / "mine" / "b").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "mine" / "a" / "round").symlink_to(tmp_path / "mine" / "a", target_is_directory=True)
    listing = image_folder.read(tmp_path / "mine")
    assert [entry.path for entry in listing.entries] == ["a/1.png", "b/2.png"]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "there are no images in"),
        (["a/text.txt"], "holds no image"),
        (["1.png", "a/1.png"], "outside every class folder"),
        (["train/1.png", "test/a/1.png"], "outside every class folder"),
        (["train/a/1.png", "training/a/1.png", "test/a/1.png"], "two folders for train"),
        (["only/1.png"], "single class, 'only'"),
        (["train/a/1.png", "train/b/1.png", "test/c/1.png", "test/a/2.png"], r"class 'c' \(label 2\) has no training"),
        (["val/a/1.png", "val/b/1.png", "test/a/1.png", "test/b/1.png"], "lists no training image"),
    ],
)
def test_folders_that_are_no_data_set(paths: list[str], message: str, tmp_path: Path) -> None:
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    with pytest.raises(DataError, match=message):
        load(str(tmp_path))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no such names")
@pytest.mark.parametrize("name", [b"b\xe4r/1.png", b"a/b\xe4r.png"])
def test_names_that_are_not_utf8(name: bytes, tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    path.parent.mkdir()
    path.touch()
    with pytest.raises(DataError, match="not UTF-8"):
        image_folder.read(tmp_path)


def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="folder .*gone is missing"):
        image_folder.read(tmp_path / "gone")


# tables

ROWS: list[dict[str, Any]] = [
    {"path": "a.png", "label": 0, "class_name": "ant", "split": "train"},
    {"path": "b.png", "label": 1, "class_name": "bee", "split": "train"},
    {"path": "c.png", "label": 0, "class_name": "ant", "split": "test"},
    {"path": "d.png", "label": 1, "class_name": "bee", "split": "test"},
]


def without(*columns: str) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in columns} for row in ROWS]


@pytest.mark.parametrize("write", [write_csv, write_jsonl])
def test_columns_that_may_be_missing(write: Callable[[Path, Any], Path], tmp_path: Path) -> None:
    file = tmp_path / ("x.csv" if write is write_csv else "x.jsonl")
    assert table.read(write(file, without("label"))).class_names == ("ant", "bee")
    assert table.read(write(file, without("class_name"))).class_names == ("0", "1")
    assert {entry.split for entry in table.read(write(file, without("split"))).entries} == {None}


def test_labels_decide_on_the_order_of_classes(tmp_path: Path) -> None:
    rows = [{**row, "label": 1 - row["label"]} for row in ROWS]
    listing = table.read(write_csv(tmp_path / "x.csv", rows))
    assert listing.class_names == ("bee", "ant")
    assert [entry.label for entry in listing.entries] == [1, 0, 1, 0]


def test_a_table_as_spreadsheets_write_it(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b'\xef\xbb\xbfPath,Label, Extra\r\n" a, b.png",0,\r\n\r\nb.png,1,x\r\n')
    (tmp_path / "x.tsv").write_text("path\tclass_name\na, b.png\tx\nb.png\ty\n", encoding="utf-8")
    for name in ("x.csv", "x.tsv"):
        assert [entry.path for entry in table.read(tmp_path / name).entries] == ["a, b.png", "b.png"]


def test_absolute_paths_below_the_table_count_as_relative(tmp_path: Path) -> None:
    rows = [{**row, "path": str(tmp_path / "sub" / row["path"])} for row in ROWS]
    rows[0]["path"] = str(tmp_path.parent / "elsewhere" / "a.png")
    rows[1]["path"] = "sub/../sub/./b.png"
    paths = [entry.path for entry in table.read(write_csv(tmp_path / "x.csv", rows)).entries]
    assert paths == [(tmp_path.parent / "elsewhere" / "a.png").as_posix(), "sub/b.png", "sub/c.png", "sub/d.png"]


def changed(row: int, **values: Any) -> list[dict[str, Any]]:
    rows = [dict(one) for one in ROWS]
    rows[row].update(values)
    return rows


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (changed(1, label="one"), r"line 3: the label 'one' is not a whole number from 0"),
        (changed(1, label="-1"), "not a whole number"),
        (changed(1, label="1.0"), "not a whole number"),
        (changed(1, label="²"), "not a whole number"),
        (changed(1, label=""), "has no label, others have one"),
        (changed(1, label="", class_name=""), "line 3 has neither label nor class_name"),
        (changed(3, label=3), "label 3"),
        (changed(3, label=3, class_name="cow"), "no image has label 2"),
        (changed(2, class_name="auk"), "label 0 is called 'auk' here and 'ant' before"),
        (changed(1, split="trane"), "the split 'trane' is none of train, training, val"),
        (changed(1, split=""), "line 3 names no split, others do"),
        (changed(1, path="./a.png"), "line 3: the image a.png was listed in line 2 already"),
        (changed(1, path=""), "line 3 has no path"),
        (changed(1, split="test"), "class 'bee' .* has no training image"),
        (without("label", "class_name"), "must have the columns path and label or class_name"),
        (without("path"), "it has label, class_name, split"),
    ],
)
def test_tables_that_are_no_data_set(rows: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        load(str(write_csv(tmp_path / "x.csv", rows)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", b"", "it has none"),
        ("x.csv", b"path,label\n", "lists no images"),
        ("x.jsonl", b"\n\n", "lists no images"),
        ("x.csv", b"path,label\nb\xe4r.png,0\n", "not UTF-8 text"),
        ("x.csv", b"path,label\na,b.png,0\n", "line 2 has 3 cells, its head 2"),
        ("x.csv", b'path,label\n"a"b,0\n', "line 2 is not as CSV must be"),
        ("x.jsonl", b'{"path": "a", "label": 0}\n{"path"\n', "line 2 is not a JSON object"),
        ("x.jsonl", b'["a", 0]\n', "line 1 is not a JSON object"),
        ("x.jsonl", b'{"path": "a", "label": true}\n', "the label 'True' is not a whole number"),
        ("x.jsonl", b'{"path": "a", "class_name": "\\ud800"}\n{"path": "b", "class_name": "c"}\n', "not UTF-8"),
    ],
)
def test_damaged_tables(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load(str(tmp_path / name))


def test_a_table_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"list .*gone\.csv is missing"):
        table.read(tmp_path / "gone.csv")


# shards


def shard(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            add(archive, name, content)
    return path


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_patterns_of_shards(tmp_path: Path) -> None:
    for name in ("train-000.tar", "train-001.tar", "train-010.tar", "sub/val-0.tar"):
        shard(tmp_path / name, {})
    for pattern, expected in {
        "train-{000..001}.tar": ["train-000.tar", "train-001.tar"],
        "{train,val}-{000,010}.tar": ["train-000.tar", "train-010.tar"],
        "train-0?0.tar": ["train-000.tar", "train-010.tar"],
        "sub/val-0.tar": ["sub/val-0.tar"],
        "": ["sub/val-0.tar", "train-000.tar", "train-001.tar", "train-010.tar"],
        "nothing-{0..9}.tar": [],
    }.items():
        found = webdataset.shard_paths(str(tmp_path / pattern))
        assert [path.relative_to(tmp_path).as_posix() for path in found] == expected


def test_shards_of_split_folders_with_names_in_a_member(tmp_path: Path) -> None:
    """The layout that CLIP's zero-shot benchmarks are published in."""
    for split in ("train", "test"):
        members = {f"s{k}.{end}": value for k in (0, 1) for end, value in (("webp", picture()), ("cls", b"%d\n" % k))}
        shard(tmp_path / "ds" / split / "0.tar", {"classnames.txt": b"ant\nbee\n", **members})
    dataset = load(f"wds:{tmp_path / 'ds'}")
    assert dataset.name == "ds" and dataset.class_names == ("ant", "bee")
    assert [item.path for item in dataset.test] == ["test/0.tar/s0.webp", "test/0.tar/s1.webp"]


def test_class_names_in_the_folder_above(tmp_path: Path) -> None:
    (tmp_path / "classnames.txt").write_text("ant\nbee\n", encoding="utf-8")
    shard(tmp_path / "test" / "0.tar", {"a.png": picture(), "a.cls": b"0", "b.png": picture(), "b.cls": b"1"})
    assert webdataset.read(str(tmp_path / "test" / "*.tar")).class_names == ("ant", "bee")


def test_labels_without_names_are_called_by_their_numbers(tmp_path: Path) -> None:
    shard(tmp_path / "0.tar", {"a.png": picture(), "a.cls": b"0", "b.png": picture(), "b.cls": b"1"})
    listing = webdataset.read(str(tmp_path / "0.tar"))
    assert listing.class_names == ("0", "1") and {entry.split for entry in listing.entries} == {None}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.png": b""}, "no label a.cls"),
        ({"x/a.cls": b"0"}, "a label x/a.cls without an image"),
        ({"a.png": b"", "a.cls": b"zero"}, "the label in a.cls 'zero' is not a whole number"),
        ({"a.png": b"", "a.jpg": b"", "a.cls": b"0"}, "two images of the key 'a'"),
        ({"a.png": b"", "a.cls": b"2", "classnames.txt": b"x\ny"}, "label 2, but there are 2 class names"),
        ({"a.png": b"", "a.cls": b"1"}, "no image has label 0"),
        ({"a.png": b"", "a.cls": b"0", "classnames.txt": b"\xe4"}, "'utf-8' codec"),
        ({"readme.txt": b""}, "hold no images"),
    ],
)
def test_shards_that_are_no_data_set(members: dict[str, bytes], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        webdataset.read(str(shard(tmp_path / "0.tar", members)))


def test_damaged_and_missing_shards(tmp_path: Path) -> None:
    whole = shard(tmp_path / "train-0.tar", {"a.png": picture() * 50, "a.cls": b"0"})
    with pytest.raises(DataError, match="no shard matches"):
        webdataset.read(str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="download them"):
        webdataset.read("https://example.org/{000..009}.tar")
    shard(tmp_path / "more-0.tar", {"b.png": picture(), "b.cls": b"1"})
    with pytest.raises(DataError, match=r"more-0\.tar, b\.png names no split, others do"):
        webdataset.read(str(tmp_path / "*.tar"))
    listing = webdataset.read(str(whole))
    whole.write_bytes(whole.read_bytes()[:1500])
    with pytest.raises(DataError, match="not a sound, uncompressed tar file"):
        webdataset.read(str(whole))
    with pytest.raises(DataError, match=r"ends within image train-0\.tar/a\.png"):
        listing.images(listing.entries[0].path)
    with tarfile.open(tmp_path / "train-0.tar", "w:gz") as archive:
        add(archive, "a.cls", b"0")
    with pytest.raises(DataError, match=r"unpack \.gz"):
        webdataset.read(str(whole))
    whole.unlink()
    with pytest.raises(DataError, match=r"shard .*train-0\.tar is missing"):
        listing.images(listing.entries[0].path)


def test_what_webdataset_writes(tmp_path: Path) -> None:
    writers = pytest.importorskip("webdataset")
    with writers.TarWriter(str(tmp_path / "test-0.tar")) as sink:
        for number in range(4):
            sink.write({"__key__": f"{number:03d}", "png": picture(), "cls": number % 2})
    listing = webdataset.read(str(tmp_path / "test-0.tar"))
    assert [(entry.path, entry.label, entry.split) for entry in listing.entries] == [
        (f"test-0.tar/{number:03d}.png", number % 2, "test") for number in range(4)
    ]


# the hub's library


def hub_set(columns: dict[str, Any], **features: Any) -> Any:
    datasets = pytest.importorskip("datasets")
    kinds = {"image": datasets.Image(), **features}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))


def images(count: int) -> list[dict[str, Any]]:
    return [{"bytes": picture(), "path": None} for _ in range(count)]


def test_a_single_table_with_names_as_text(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    columns = {"image": images(4), "label": ["b", "a", "b", "a"]}
    hub_set(columns, label=datasets.Value("string")).save_to_disk(str(tmp_path / "x"))
    listing = hugging_face.read(str(tmp_path / "x"))
    assert listing.class_names == ("a", "b")
    assert [(entry.path, entry.label, entry.split) for entry in listing.entries] == [
        (f"all/{row:08d}", label, None) for row, label in enumerate((1, 0, 1, 0))
    ]


def test_a_folder_of_parquet_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for split in ("train", "test"):
        columns = {"image": images(2), "fine": [0, 1], "label": [1, 0]}
        kind = datasets.ClassLabel(names=["ant", "bee"])
        data = hub_set(columns, fine=datasets.ClassLabel(names=["x", "y"]), label=kind)
        data.to_parquet(str(tmp_path / "data" / f"{split}-00000-of-00001.parquet"))
    dataset = load(f"hf:{tmp_path / 'data'}")
    assert dataset.name == "data" and dataset.class_names == ("ant", "bee")
    assert [item.path for item in dataset.train] == ["train/00000001", "train/00000000"]
    assert dataset.load_image("test/00000001").size == (8, 8)


def test_a_test_split_whose_labels_are_withheld_does_not_count(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    kind = datasets.ClassLabel(names=["ant", "bee"])
    parts = {"train": [0, 1, 0, 1], "test": [-1, -1]}
    whole = {name: hub_set({"image": images(len(v)), "label": v}, label=kind) for name, v in parts.items()}
    datasets.DatasetDict(whole).save_to_disk(str(tmp_path / "x"))
    dataset = load(f"hf:{tmp_path / 'x'}")
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (2, 0, 2)
    assert "no test images were given, so the training images were split" in dataset.notes[0]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": 2, "label": [0, -1]}, "row 1 of all has the label -1"),
        ({"image": 2}, "must have one label column, it has none; its columns: image"),
        ({"image": 2, "label": [-1, -1]}, "no image with a label"),
    ],
)
def test_tables_of_the_hub_that_are_no_data_set(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = {"label": datasets.Value("int64")} if "label" in columns else {}
    hub_set({**columns, "image": images(columns["image"])}, **features).save_to_disk(str(tmp_path / "x"))
    with pytest.raises(DataError, match=message):
        hugging_face.read(str(tmp_path / "x"))


def test_rows_without_an_image(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{"bytes": b"no image", "path": None}, None, {"bytes": None, "path": str(tmp_path / "gone.png")}]
    data = hub_set({"image": rows, "label": [0, 1, 1]}, label=datasets.ClassLabel(names=["a", "b"]))
    loader = hugging_face.Rows(Path("hf:x"), {"all": data.cast_column("image", datasets.Image(decode=False))}, "image")
    for row, message in enumerate(("not in a known image format", "row 1 of all has no image", "gone.png is missing")):
        with pytest.raises(DataError, match=message):
            loader(f"all/{row:08d}")


def test_what_the_hub_library_cannot_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"hf:.*empty cannot be loaded: "):
        hugging_face.read(str(tmp_path / "empty"))


def test_without_the_hub_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"pip install 'clipfit-cli\[hf\]'"):
        read_own(OwnDataSet("x", "hf", "org/name"))
