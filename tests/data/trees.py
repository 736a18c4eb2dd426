"""Miniature data sets for tests: in memory, and on disk in the published layouts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from clipfit_cli.data.catalog import row
from clipfit_cli.data.dataset import DataSet, Item, hash_lists

GOLDEN = Path(__file__).parents[1] / "golden"

Row = tuple[str, int, str]


def golden(name: str) -> Any:
    """Return the content of a golden JSON file."""
    return json.loads((GOLDEN / name).read_text(encoding="utf-8"))


def plain_image(path: str) -> Image.Image:
    """Return a 12 x 8 image whose colour depends on the path."""
    return Image.new("RGB", (12, 8), (sum(path.encode()) % 256, len(path), 7))


def in_memory(
    name: str,
    class_names: tuple[str, ...],
    rows: Mapping[str, Iterable[tuple[str, int]]],
    *,
    load_image: Callable[[str], Image.Image] = plain_image,
    samples_val: bool = True,
    train_is_sampled: bool = True,
) -> DataSet:
    """Return a data set of the given (path, label) rows."""
    train, val, test = (tuple(Item(*pair) for pair in rows[split]) for split in ("train", "val", "test"))
    return DataSet(
        name=name,
        prompt_template="a photo of a {}.",
        class_names=class_names,
        train=train,
        val=val,
        test=test,
        split_sha256=hash_lists(class_names, train, val, test),
        load_image=load_image,
        samples_val=samples_val,
        train_is_sampled=train_is_sampled,
    )


def toy(
    train: Iterable[tuple[str, int]],
    val: Iterable[tuple[str, int]] = (),
    test: Iterable[tuple[str, int]] = (("t", 0),),
    *,
    num_classes: int,
    load_image: Callable[[str], Image.Image] = plain_image,
    **flags: bool,
) -> DataSet:
    """Return a data set in memory with classes c0, c1, ..."""
    names = tuple(f"c{label}" for label in range(num_classes))
    rows = {"train": train, "val": val, "test": test}
    return in_memory("toy", names, rows, load_image=load_image, **flags)


def rows_of(dataset: DataSet, items: Sequence[Item]) -> list[list[object]]:
    """Return items as the rows of a split file."""
    return [[item.path, item.label, dataset.class_names[item.label]] for item in items]


def write_images(root: Path, paths: Iterable[str]) -> None:
    """Write a small image at each path below `root`."""
    for path in paths:
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        plain_image(path).save(target, format="PNG")


def write_split(data_root: Path, name: str, lists: dict[str, list[Row]], *, images: bool = False) -> Path:
    """Write a CoOp tree with its split file; return the data set's folder."""
    entry = row(name)
    folder = data_root / entry.folder
    (folder / entry.image_folder).mkdir(parents=True, exist_ok=True)
    assert entry.split_file is not None
    (folder / entry.split_file).write_text(json.dumps(lists), encoding="utf-8")
    if images:
        write_images(folder / entry.image_folder, (path for rows in lists.values() for path, _, _ in rows))
    return folder


def small_lists() -> dict[str, list[Row]]:
    """Return a split of three classes: three training, one validation, two test images each."""
    names = ("ant", "bee", "cow")
    return {
        split: [(f"{name}/{split}_{k}.jpg", label, name) for label, name in enumerate(names) for k in range(count)]
        for split, count in (("train", 3), ("val", 1), ("test", 2))
    }


def write_fgvc(data_root: Path, variants: Sequence[str], counts: dict[str, int]) -> Path:
    """Write the lists of FGVC Aircraft with `counts` images per variant and split; return its folder."""
    folder = data_root / "fgvc_aircraft"
    (folder / "images").mkdir(parents=True)
    (folder / "variants.txt").write_text("".join(f"{variant}\n" for variant in variants), encoding="utf-8")
    number = 0
    for split, count in counts.items():
        lines = []
        for variant in variants:
            for _ in range(count):
                number += 1
                lines.append(f"{number:07d} {variant}\n")
        (folder / f"images_variant_{split}.txt").write_text("".join(lines), encoding="utf-8")
    return folder


WNIDS = {
    "n01440764": "tench",
    "n01443537": "goldfish",
    "n01484850": "great white shark",
    "n01491361": "tiger shark",
}


def write_imagenet(data_root: Path, name: str, files: dict[str, list[str]]) -> Path:
    """Write the class names and empty files: folder below the image folder -> file names; return its folder."""
    entry = row(name)
    folder = data_root / entry.folder
    for below, names in files.items():
        (folder / entry.image_folder / below).mkdir(parents=True, exist_ok=True)
        for file in names:
            (folder / entry.image_folder / below / file).touch()
    text = "".join(f"{wnid} {class_name}\n" for wnid, class_name in WNIDS.items())
    (folder / "classnames.txt").write_text(text, encoding="utf-8")
    return folder
