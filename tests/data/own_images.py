"""A user's own images in every form that is read: the same pictures as folder, lists, hub data set and shards."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

CLASSES = ("apple", "bee", "red_car", "stone wall", "Zebra")[::-1]  # sorted: capitals first
COUNTS = {"train": 4, "val": 1, "test": 2}
SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}

Picture = tuple[str, str, str, bytes]
"""Split, class, file name, content."""


def pictures() -> list[Picture]:
    """Return five classes of PNG, JPEG and WebP images, sorted as a data set lists them."""
    rng = np.random.default_rng(0)
    found: list[Picture] = []
    for split, count in COUNTS.items():
        for label, class_name in enumerate(sorted(CLASSES)):
            for index in range(count):
                suffix = list(SUFFIXES)[index % 3]
                pixels = (rng.random((30 + index, 36, 3)) * 60 + 45 * label).astype(np.uint8)
                buffer = io.BytesIO()
                Image.fromarray(pixels).save(buffer, SUFFIXES[suffix])
                found.append((split, class_name, f"{split}{index}{suffix}", buffer.getvalue()))
    return found


def write_folder(root: Path, *, splits: bool = True) -> Path:
    """Write a folder per class below a folder per split, or a single tree of class folders; return it."""
    for split, class_name, file, content in pictures():
        path = root / (split if splits else "") / class_name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def write_rows(root: Path) -> list[dict[str, Any]]:
    """Write the images into one folder; return the rows that list them, not sorted."""
    rows = []
    (root / "all images").mkdir(parents=True)
    for split, class_name, file, content in pictures():
        path = f"all images/{class_name}-{file}"
        (root / path).write_bytes(content)
        label = sorted(CLASSES).index(class_name)
        rows.append({"path": path, "label": label, "class_name": class_name, "split": split})
    return rows[::-1]


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as CSV; return the file."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSONL; return the file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_hf(root: Path) -> Path:
    """Write a data set as the library `datasets` saves it; return the folder. Skips without the library."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "id": datasets.Value("int64"),
            "picture": datasets.Image(),
            "kind": datasets.ClassLabel(names=sorted(CLASSES)),
        }
    )
    parts = {}
    for split, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        rows = [one for one in pictures() if one[0] == split]
        columns = {
            "id": list(range(len(rows))),
            "picture": [{"bytes": content, "path": file} for _, _, file, content in rows],
            "kind": [sorted(CLASSES).index(class_name) for _, class_name, _, _ in rows],
        }
        parts[name] = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict(parts).save_to_disk(str(root))
    return root


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file to a tar archive."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def write_shards(root: Path) -> str:
    """Write two training shards and one each of the others; return their pattern."""
    root.mkdir(parents=True)
    (root / "classnames.txt").write_text("\n".join(sorted(CLASSES)) + "\n", encoding="utf-8")
    numbered = list(enumerate(pictures()))
    for split in COUNTS:
        part = [(number, one) for number, one in numbered if one[0] == split]
        shards = [part[: len(part) // 2], part[len(part) // 2 :]] if split == "train" else [part]
        for index, shard in enumerate(shards):
            with tarfile.open(root / f"{split}-{index:03d}.tar", "w") as archive:
                for number, (_, class_name, file, content) in shard:
                    add(archive, f"{number:05d}.cls", str(sorted(CLASSES).index(class_name)).encode())
                    add(archive, f"{number:05d}{Path(file).suffix}", content)
                    add(archive, f"{number:05d}.json", b"{}")
    return f"{root}/{{train,val,test}}-*.tar"
