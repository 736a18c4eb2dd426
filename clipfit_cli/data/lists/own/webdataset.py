"""Webdataset shards: tar files with `key.jpg` and `key.cls`, read in place, image by image."""

from __future__ import annotations

import glob
import itertools
import math
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipfit_cli.data.files.folder import IMAGE_SUFFIXES, StoredImages, files_below
from clipfit_cli.data.files.identity import MAX_BYTES, by_content, reading
from clipfit_cli.data.lists.own.listing import Entry, Listing, Split, listing_of, split_of, whole_number
from clipfit_cli.errors import ConfigError, DataError
from clipfit_cli.files import expanded, open_regular, read_text

CLASS_NAMES_FILE = "classnames.txt"
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})")
_MOST_SHARDS = 100_000
_MOST_TEXT = 10_000_000


@dataclass(frozen=True)
class Shards(StoredImages):
    """Loads images out of tar files, without unpacking them.

    Attributes:
        root: Folder that all shards lie below.
        places: Path of an image -> its shard, and offset and size in bytes there.
    """

    places: dict[str, tuple[Path, int, int]]

    def content(self, path: str) -> bytes:
        """Return what is in the image file.

        Raises:
            DataError: The shard cannot be read, or has become shorter.
        """
        shard, offset, size = self.places[path]
        with reading("shard", shard), open_regular(shard) as file:
            file.seek(offset)
            content = file.read(size)
        if len(content) < size:
            raise DataError(f"shard {shard} ends within image {path}", path=shard)
        return content

    def identify(self, paths: Sequence[str]) -> str:
        """Return a hash of the names and contents of the shards that images are in.

        Raises:
            DataError: A shard is gone or cannot be read.
        """
        shards = {self.places[path][0].relative_to(self.root).as_posix() for path in paths}
        return by_content(self.root, list(shards))


def read(pattern: str) -> Listing:
    """Return what the shards hold; which split a shard belongs to stands in its name, or in its folder's.

    Class names come from ``classnames.txt`` in a shard, beside the shards or in the folder above them: one a line,
    in label order.

    Args:
        pattern: See `shard_paths`.

    Raises:
        ConfigError: The pattern is a URL.
        DataError: There is no shard, one is damaged or compressed, an image has no label or a label no image, a
            label is not a whole number, or only some shards name their split.
    """
    shards = shard_paths(pattern)
    if not shards:
        raise DataError(f"no shard matches {pattern}; expected tar files such as 'shards/train-{{000..009}}.tar'")
    root = Path(os.path.commonpath([shard.parent for shard in shards]))
    names = _class_names(root)
    places: dict[str, tuple[Path, int, int]] = {}
    found: list[Entry] = []
    for shard in shards:
        name = shard.relative_to(root)
        for member, label, offset, size in _samples(shard, names):
            path = f"{name.as_posix()}/{member}"
            places[path] = (shard, offset, size)
            found.append(Entry(path, label, _split(name), where=f"{shard}, {member}"))
    if not found:
        raise DataError(f"the {len(shards)} shards of {pattern} hold no images")
    return listing_of(found, Shards(root, places), names)


def shard_paths(pattern: str) -> list[Path]:
    """Return the tar files of a pattern, sorted, absolute.

    Args:
        pattern: A file, a folder (all tar files below it), or a name with ``*`` and ``?``, ``{000..009}`` or
            ``{train,test}``.

    Raises:
        ConfigError: It is a URL, which cannot be read from, no path, or stands for too many files.
        DataError: A folder cannot be read.
    """
    if "://" in pattern:
        raise ConfigError(f"shards are read from files, not from {pattern}; download them and give their path")
    path = expanded(pattern)
    if os.path.isdir(path):  # noqa: PTH112
        return sorted(path.absolute() / found for found in files_below(path) if found.endswith(".tar"))
    if os.path.isfile(path):  # noqa: PTH113
        return [path.absolute()]
    texts = _BRACES.split(str(path))
    choices = [_choices(text) if number % 2 else [text] for number, text in enumerate(texts)]
    if math.prod(map(len, choices)) > _MOST_SHARDS:
        raise ConfigError(f"{pattern} stands for more than {_MOST_SHARDS:,} shards; name fewer, or give their folder")
    matches = {found for parts in itertools.product(*choices) for found in glob.glob("".join(parts))}  # noqa: PTH207
    return sorted(Path(found).absolute() for found in matches)


def _choices(inner: str) -> Sequence[str]:
    """Return what a pair of braces stands for."""
    numbers = _RANGE.fullmatch(inner)
    if numbers is None:
        return inner.split(",")
    first, last = numbers.groups()
    return [f"{n:0{len(first)}d}" for n in range(int(first), min(int(last), int(first) + _MOST_SHARDS) + 1)]


def _split(name: Path) -> Split | None:
    """Return the split that a shard's own name, or else a folder above it, is called by."""
    words = (word for part in reversed(name.parts) for word in re.split(r"[^A-Za-z]+", part))
    return next(filter(None, map(split_of, words)), None)


def _samples(shard: Path, names: list[str]) -> Iterator[tuple[str, int, int, int]]:
    """Yield image, label, offset and size of the samples of a shard; notes class names that come with it."""
    images: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, int] = {}
    try:
        size = shard.stat().st_size
        with open_regular(shard) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"{member.name} goes beyond its end")
                folder, slash, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                key = f"{folder}{slash}{stem}"
                if f".{suffix.lower()}" in IMAGE_SUFFIXES:
                    if key in images:
                        raise DataError(f"shard {shard} has two images of the key {key!r}", path=shard)
                    if member.size > MAX_BYTES:
                        raise tarfile.ReadError(_too_large(member, MAX_BYTES))
                    images[key] = (member.name, member.offset_data, member.size)
                elif suffix.lower() == "cls":
                    text = _content(archive, member).strip().decode(errors="replace")
                    labels[key] = whole_number(text, f"shard {shard}: the label in {member.name}")
                elif name == CLASS_NAMES_FILE and not names:
                    names += _lines(_content(archive, member).decode("utf-8-sig"))
    except (tarfile.TarError, OSError, ValueError, ArithmeticError, EOFError) as error:
        raise DataError(
            f"shard {shard} is not a sound, uncompressed tar file ({error}); unpack .gz, or fetch it anew", path=shard
        ) from error
    for key in sorted(images.keys() ^ labels.keys()):
        lacks = f"no label {key}.cls" if key in images else f"a label {key}.cls without an image"
        raise DataError(f"shard {shard} has {lacks}", path=shard)
    for key in sorted(images):
        yield (images[key][0], labels[key], *images[key][1:])


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > _MOST_TEXT:
        raise tarfile.ReadError(_too_large(member, _MOST_TEXT))
    file = archive.extractfile(member)
    return file.read() if file else b""


def _too_large(member: tarfile.TarInfo, most: int) -> str:
    return f"{member.name} has {member.size:,} bytes, at most {most:,} are accepted"


def _class_names(root: Path) -> list[str]:
    """Return the class names that stand beside the shards, if any."""
    for folder in (root, root.parent):
        path = folder / CLASS_NAMES_FILE
        if path.is_file():
            with reading("list", path):
                return _lines(read_text(path))
    return []


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.rstrip().splitlines()]
