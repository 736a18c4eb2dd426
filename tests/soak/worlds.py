"""A small world for commands to run in, with a bit of everything that they read."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import shutil
import struct
import tarfile
from pathlib import Path
from typing import Any

from PIL import Image

from tests.conftest import write_small_dataset
from tests.data.trees import WNIDS, write_fgvc
from tests.soak.forking import Command, run_forked

CLASSES = ("ant", "bee", "red cow", "Zebu")
FORMATS = ("png", "jpg", "webp", "bmp", "gif", "tiff")
TINY = ("--backbone", "clipfit-tiny", "--shots", "1", "--seeds", "1", "--epochs", "1")
LARGE = 200_000
"""Files of at least so many bytes are linked, not copied, into a copy of the world."""


def environment(world: Path) -> dict[str, str]:
    """Return the environment of a user who lives in a world."""
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(world / "home"),
        "TMPDIR": str(world / "tmp"),
        "HF_HOME": str(world / "home/hf"),
        "CLIPFIT_DATA": "data",
        "COLUMNS": "100",
        "LANG": "C.UTF-8",
    }


def make_world(world: Path) -> None:
    """Make a world: data sets of all kinds, words, a model, trained runs, caches, an export, odd files.

    Raises:
        RuntimeError: A command that is needed for it failed.
    """
    make_own(world)
    _tables(world)
    _shards(world / "shards")
    _words(world / "words")
    _odd(world / "odd")
    commands = [
        ("train", "--dataset", "own/pets", "--method", "clipfit,bitfit", *TINY),
        ("base2new", "--dataset", "dtd", *TINY),
        ("eval", "--dataset", "lists/pets.csv", "--pretrained", "model", "--image-cache", "cache"),
        ("eval", "--dataset", "own/split,wds:shards/train-{000..001}.tar", "--backbone", "clipfit-tiny"),
    ]
    for arguments in commands:
        _do(world, arguments)
    _do(world, ("export", str(adapters(world)[0].relative_to(world)), "--out", "exported"))


def make_own(world: Path) -> None:
    """Make what a person has before the first command: images, published data sets, a model."""
    for name in ("home", "tmp", "own", "lists", "words", "odd"):
        (world / name).mkdir(parents=True)
    _own_images(world)
    _published(world / "data")
    _model(world / "model")


def adapters(world: Path) -> list[Path]:
    """Return the folders of the runs that hold an adapter, sorted."""
    return sorted(path.parent for path in (world / "runs").rglob("adapter_model.safetensors"))


def copy_world(world: Path, copy: Path, *, linked: bool = True) -> Path:
    """Return a copy.

    Args:
        world: Is not changed by what happens to the copy, but for links.
        copy: Must not exist.
        linked: Link large files; only `Damage`, and commands that replace files whole, leave those of `world` alone.
    """

    def take(source: str, target: str) -> str:
        if linked and os.path.getsize(source) >= LARGE:
            os.link(source, target)
            return target
        return shutil.copy2(source, target)

    shutil.copytree(
        world, copy, symlinks=True, copy_function=take, ignore=lambda folder, names: _no_plain(folder, names)
    )
    for path in (world / "odd").iterdir():
        if path.is_fifo():
            os.mkfifo(copy / "odd" / path.name)
    for path in (copy / "odd/locked", copy / "odd/shut"):
        if path.exists():
            path.chmod(0)
    return copy


def remove_world(world: Path) -> None:
    """Remove a world, whatever its permissions are."""
    if os.geteuid() != 0 and world.exists():
        for folder, _, _ in os.walk(world):
            for name in os.listdir(folder):
                path = Path(folder, name)
                if path.is_dir() and not path.is_symlink():
                    path.chmod(0o700)
    shutil.rmtree(world, ignore_errors=True)


def _no_plain(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if Path(folder, name).is_fifo()]


def _do(world: Path, arguments: tuple[str, ...]) -> None:
    outcome = run_forked(Command(arguments, world, environment(world)), patience_s=120)
    if outcome.code != 0:
        raise RuntimeError(f"clipfit {' '.join(arguments)}: exit code {outcome.code}\n{outcome.stderr}")


def picture(number: int, kind: str = "png") -> bytes:
    """Return a small picture, another one for each number."""
    side = 14 + number % 5
    image = Image.frombytes("RGB", (side, side), random.Random(number).randbytes(3 * side * side))
    buffer = io.BytesIO()
    image.save(buffer, {"jpg": "JPEG"}.get(kind, kind.upper()))
    return buffer.getvalue()


def _own_images(world: Path) -> None:
    number = 0
    places = [("pets", 6), *((f"split/{part}", count) for part, count in (("train", 3), ("val", 1), ("test", 2)))]
    for place, count in places:
        for name in CLASSES:
            folder = world / "own" / place / name
            folder.mkdir(parents=True)
            for index in range(count):
                kind = FORMATS[index % len(FORMATS)]
                (folder / f"{index}.{kind}").write_bytes(picture(number, kind))
                number += 1
    for domain in ("photo", "art"):
        for name in CLASSES[:3]:
            folder = world / "own/domains" / domain / name
            folder.mkdir(parents=True)
            for index in range(4):
                (folder / f"{index}.png").write_bytes(picture(number))
                number += 1


def _tables(world: Path) -> None:
    rows = [
        {"path": f"../own/pets/{name}/{index}.{FORMATS[index]}", "label": label, "class_name": name, "split": split}
        for label, name in enumerate(CLASSES)
        for index, split in enumerate(("train", "train", "train", "val", "test", "test"))
    ]
    for suffix, mark in (("csv", ","), ("tsv", "\t")):
        with (world / f"lists/pets.{suffix}").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=mark)
            writer.writeheader()
            writer.writerows(rows)
    (world / "lists/pets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _shards(folder: Path) -> None:
    folder.mkdir()
    (folder / "classnames.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
    for part, shards in (("train", 2), ("test", 1)):
        for shard in range(shards):
            with tarfile.open(folder / f"{part}-{shard:03d}.tar", "w") as archive:
                for index in range(8):
                    number = 1000 + 100 * shard + index
                    for suffix, content in (("cls", str(index % 4).encode()), ("png", picture(number))):
                        member = tarfile.TarInfo(f"{number}.{suffix}")
                        member.size = len(content)
                        archive.addfile(member, io.BytesIO(content))


def _published(root: Path) -> None:
    write_small_dataset(root, "dtd", ["banded", "lined", "polka-dotted", "woven"], (3, 1, 2))
    write_small_dataset(root, "eurosat", ["Forest", "River", "Sea or Lake", "Highway"], (3, 1, 2))
    folder = write_fgvc(root, ["A-1", "B-2"], {"train": 2, "val": 1, "test": 1})
    for number in range(1, 9):
        (folder / f"images/{number:07d}.jpg").write_bytes(picture(number, "jpg"))
    imagenet = root / "imagenet"
    for part in ("train", "val"):
        for wnid in WNIDS:
            place = imagenet / "images" / part / wnid
            place.mkdir(parents=True)
            for number in range(2):
                (place / f"{wnid}_{number}.JPEG").write_bytes(picture(number, "jpg"))
    text = "".join(f"{wnid} {name}\n" for wnid, name in WNIDS.items())
    (imagenet / "classnames.txt").write_text(text, encoding="utf-8")


def _words(folder: Path) -> None:
    (folder / "names.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
    (folder / "names.json").write_text(json.dumps(list(CLASSES)), encoding="utf-8")
    (folder / "by_folder.json").write_text(json.dumps({name: f"a {name}" for name in CLASSES}), encoding="utf-8")
    (folder / "templates.txt").write_text("a photo of a {}.\na drawing of a {}.\n", encoding="utf-8")
    (folder / "templates.json").write_text(json.dumps(["a {}", "the {}."]), encoding="utf-8")


def _model(folder: Path) -> None:
    import torch
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
    from safetensors.torch import save_file

    config: dict[str, Any] = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 2, "head_width": 16},
        "text_cfg": {"context_length": 32, "width": 16, "heads": 2, "layers": 2},
    }
    torch.manual_seed(0)
    model = CLIP(16, CLIPVisionCfg(**config["vision_cfg"]), CLIPTextCfg(**config["text_cfg"]))
    folder.mkdir()
    half = [0.5, 0.5, 0.5]
    preprocess = {"mean": half, "std": half, "interpolation": "bicubic", "resize_mode": "shortest"}
    text = json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}, indent=2)
    (folder / "open_clip_config.json").write_text(text, encoding="utf-8")
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    torch.save(model.state_dict(), folder.parent / "weights.pt")


def _odd(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nothing")
    (folder / "zero").symlink_to("/dev/zero")
    (folder / "here").symlink_to("..")
    (folder / "empty").touch()
    (folder / "locked").write_text("locked")
    (folder / "shut/inside").mkdir(parents=True)
    (folder / "folder").mkdir()
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "bytes.txt").write_bytes(bytes(range(256)))
    (folder / "cat.png").write_bytes(picture(5))
    (folder / "cat.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\nshowpage\n%%EOF\n")
    (folder / "bomb.png").write_bytes(bomb())
    (folder / "\x1b[31mred\x1b[0m.png").write_bytes(picture(6))
    (folder / "a\nline.png").write_bytes(picture(7))
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.png")).write_bytes(picture(8))


def bomb() -> bytes:
    """Return a PNG that says it is 60,000 x 60,000."""
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
