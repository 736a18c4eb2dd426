"""What can be wrong with a file or a folder."""

from __future__ import annotations

import io
import json
import math
import os
import random
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from tests.soak.worlds import FORMATS, bomb


class Damage:
    """Does things to files and folders, as told by a random generator, and says what it did."""

    def __init__(self, rng: random.Random, world: Path) -> None:
        """Take a world that is not used otherwise."""
        self._rng = rng
        self._world = world

    def one(self, near: list[str]) -> str:
        """Damage one thing, most often among what a command line names; return in words what was done.

        Args:
            near: Files and folders, relative to the world.
        """
        path = self._target([name for name in near if (self._world / name).exists()])
        if path is None:
            return "nothing"
        kind: Mapping[str, Callable[[Path], None]] = {
            "bits flipped": self._flip,
            "cut short": self._cut,
            "emptied": lambda p: self._replace(p, b""),
            "random bytes": lambda p: self._replace(p, self._rng.randbytes(self._rng.choice((1, 100, 5000)))),
            "deep JSON": lambda p: self._replace(p, self._rng.choice((b"[", b'{"a":')) * 100_000),
            "a folder": self._folder,
            "a FIFO": self._fifo,
            "a link": self._link,
            "no permission": lambda p: _own_copy(p).chmod(0),
            "folder without permission": lambda p: p.parent.chmod(self._rng.choice((0, 0o444, 0o111, 0o555))),
            "read only": lambda p: _own_copy(p).chmod(0o444),
            "removed": lambda p: p.unlink(),
            "another file": self._swap,
            "grown": lambda p: self._replace(p, p.read_bytes() + self._rng.choice((b"\0", b"\n", b"}", b"\xff" * 99))),
            "odd files beside it": self._odd_neighbours,
            "too new": lambda p: os.utime(_own_copy(p), (time.time() + 1e9,) * 2),
        }
        special = self._special(path)
        name = self._rng.choice([*kind, *(12 * ["changed"] if special else [])])
        (special if name == "changed" and special else kind[name])(path)
        return f"{path.relative_to(self._world)}: {name}".encode("utf-8", "backslashreplace").decode()

    def _target(self, near: list[str]) -> Path | None:
        rng = self._rng
        place = (
            rng.choice(near) if near and rng.random() < 0.85 else rng.choice(("runs", "own", "data", "lists", "home"))
        )
        path = self._world / place
        if path.is_dir():
            files = [p for p in sorted(path.rglob("*")) if p.is_file() and not p.is_symlink()]
            records = [p for p in files if p.suffix in (".json", ".txt")]
            return rng.choice(records if records and rng.random() < 0.5 else files) if files else None
        return path if path.is_file() and path.parts[-2] != "odd" else None

    def _special(self, path: Path) -> Callable[[Path], None] | None:
        """Return the change that goes deeper than bytes, for files of a form."""
        if path.suffix in (".json", ".jsonl"):
            return self._change_json
        if path.suffix in (".csv", ".tsv", ".txt"):
            return self._change_text
        if path.suffix[1:].lower() in (*FORMATS, "jpeg"):
            return self._change_picture
        if path.suffix == ".safetensors":
            return self._change_tensors
        return None

    def _flip(self, path: Path) -> None:
        content = bytearray(path.read_bytes())
        for _ in range(self._rng.randint(1, 3)):
            if content:
                content[self._rng.randrange(len(content))] ^= 1 << self._rng.randrange(8)
        self._replace(path, bytes(content))

    def _cut(self, path: Path) -> None:
        content = path.read_bytes()
        self._replace(path, content[: self._rng.randrange(len(content) + 1)])

    def _replace(self, path: Path, content: bytes) -> None:
        path.unlink()
        path.write_bytes(content)

    def _folder(self, path: Path) -> None:
        path.unlink()
        path.mkdir()

    def _fifo(self, path: Path) -> None:
        path.unlink()
        os.mkfifo(path)

    def _link(self, path: Path) -> None:
        path.unlink()
        path.symlink_to(self._rng.choice(("nothing", path.name, "/dev/zero", "/dev/full", "/dev/stdin", "..", "/root")))

    def _swap(self, path: Path) -> None:
        others = [p for p in sorted(self._world.rglob(f"*{path.suffix}")) if p.is_file() and not p.is_symlink()]
        other = self._rng.choice(others)
        if other != path and os.access(other, os.R_OK):
            self._replace(path, other.read_bytes())

    def _odd_neighbours(self, path: Path) -> None:
        folder, suffix = path.parent, path.suffix
        for name in ("\x1b[2J", "a\nb", "é" * 100, "..a", " ", "-x", "*", "CON", "\u202egnp"):
            (folder / f"{name}{suffix}").write_bytes(path.read_bytes()[:5000])
        Path(os.fsdecode(os.fsencode(folder / "\x07") + b"\xff" + os.fsencode(suffix))).touch()
        deep = folder / "/".join(["d"] * self._rng.choice((2, 200)))
        deep.mkdir(parents=True)

    def _change_json(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines() if path.suffix == ".jsonl" else [text]
        index = self._rng.randrange(len(lines))
        value = json.loads(lines[index])
        for _ in range(self._rng.randint(1, 2)):
            value = self._changed(value)
        lines[index] = json.dumps(value, indent=self._rng.choice((None, 2)) if len(lines) == 1 else None)
        # what json cannot write
        lines[index] = lines[index].replace('"@DEEP@"', "[" * 50_000 + "]" * 50_000).replace('"@LONG@"', "9" * 6_000)
        self._replace(path, ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass"))

    def _changed(self, value: Any) -> Any:
        """Return a value with one change somewhere in it."""
        rng = self._rng
        if isinstance(value, dict) and value and rng.random() < 0.95:
            key = rng.choice(list(value))
            if rng.random() < 0.1:
                return {other: one for other, one in value.items() if other != key}
            if rng.random() < 0.05:
                return {**value, self._leaf_text(): 1}
            return {**value, key: self._changed(value[key])}
        if isinstance(value, list) and value and rng.random() < 0.9:
            index = rng.randrange(len(value))
            kind = rng.random()
            if kind < 0.1:
                return value[:index] + value[index + 1 :]
            if kind < 0.2:
                return [*value, value[index]]
            return [*value[:index], self._changed(value[index]), *value[index + 1 :]]
        numbers = [0, -1, 1, 3, 2**31, 2**63, 2**64, -(2**70), 300_000_000, 0.5, 1e308, math.nan, math.inf, -math.inf]
        others: list[Any] = [None, True, "", [], {}, [[]], ["a", "a"], {"a": 1}, [value], [value, value], f"{value}x"]
        texts = ["@DEEP@", "@LONG@", *(self._leaf_text() for _ in range(4))]
        return rng.choice((*numbers, *others, *texts))

    def _leaf_text(self) -> str:
        texts = ["\0", "a\0b", "\ud800", "\x1b[31m", "../../../etc/passwd", "/etc/passwd", "a" * 300, "b" * 100_000]
        texts += [" ", "\n", "nan", "1", "é", "{}", "~nosuch/x", "a/" * 3000, "zero-shot", "builtin", "bf16", "all"]
        return self._rng.choice(texts)

    def _change_text(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines(keepends=True)
        index = self._rng.randrange(len(lines)) if lines else 0
        kind = self._rng.randrange(6)
        if kind == 0 and lines:
            lines.insert(index, lines[index])
        elif kind == 1 and lines:
            del lines[index]
        elif kind == 2 and lines:
            cells = lines[index].rstrip("\n").split(",")
            cells[self._rng.randrange(len(cells))] = self._leaf_text()
            lines[index] = ",".join(cells) + "\n"
        elif kind == 3:
            lines.insert(index, self._rng.choice(('"', '"a\n', ",,,,\n", "\0\n", "\r", "x" * 200_000, "\ufeff", "#\n")))
        elif kind == 4:
            return self._replace(path, text.encode("utf-16"))
        else:
            lines = [line.replace(",", self._rng.choice((";", "\t", "|"))) for line in lines]
        return self._replace(path, "".join(lines).encode("utf-8", "surrogatepass"))

    def _change_picture(self, path: Path) -> None:
        rng = self._rng
        mode = rng.choice(("RGB", "RGBA", "P", "1", "I;16", "I", "F", "CMYK", "L", "LA"))
        size = rng.choice(((9, 9), (9, 9), (1, 1), (1, 3000), (3000, 1)))
        formats = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "EPS", "ICO", "PDF", "TGA", "SGI", "PCX", "MPO")
        while True:
            try:
                buffer = io.BytesIO()
                Image.new(mode, size).save(buffer, rng.choice(formats))
            except (OSError, ValueError):
                continue
            break
        contents = (
            buffer.getvalue(),
            buffer.getvalue(),
            bomb(),
            b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            b"hello",
        )
        self._replace(path, rng.choice(contents))

    def _change_tensors(self, path: Path) -> None:
        rng = self._rng
        content = path.read_bytes()
        (size,) = struct.unpack("<Q", content[:8])
        head, body = json.loads(content[8 : 8 + size]), content[8 + size :]
        kind = rng.randrange(5)
        if kind == 0:
            text = json.dumps(self._changed(head)).replace('"@DEEP@"', "[" * 50_000).replace('"@LONG@"', "9" * 6_000)
            packed = text.encode("utf-8", "surrogatepass")
            self._replace(path, struct.pack("<Q", len(packed)) + packed + body)
        elif kind == 1:
            self._replace(path, struct.pack("<Q", rng.choice((0, 1, 2**40, 2**64 - 1))) + content[8:])
        else:
            self._change_loaded(path, kind)

    def _change_loaded(self, path: Path, kind: int) -> None:
        import torch
        from safetensors.torch import load_file, save_file

        rng, tensors = self._rng, load_file(path)
        name = rng.choice(sorted(tensors))
        kinds = (torch.int64, torch.complex64, torch.float64, torch.bool, torch.uint8, torch.bfloat16)
        if kind == 2:
            tensors[name] = tensors[name].to(rng.choice(kinds))
        elif kind == 3:
            tensors[name] = rng.choice((tensors[name][..., :-1], tensors[name][None], tensors[name] * float("nan")))
        else:
            tensors[self._leaf_text()[:50].replace("\ud800", "") or "x"] = tensors.pop(name)
        path.unlink()
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)


def _own_copy(path: Path) -> Path:
    """Return the path, the file behind it no longer shared with another world."""
    if path.stat().st_nlink > 1:
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    return path
