"""Webdataset shards: tar files with `key.jpg` and `key.cls`, read in place, image by image."""

from __future__ import annotations

import glob
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clipfit_cli.data.files.folder import IMAGE_SUFFIXES
from clipfit_cli.data.files.identity import by_content
from clipfit_cli.data.lists.own.listing import Entry, Labelled, Listing, Split, number_classes, split_of
from clipfit_cli.errors import ConfigError, DataError
from clipfit_cli.files import open_regular

if TYPE_CHECKING:
    from PIL.Image import Image

CLASS_NAMES_FILE = "classnames.txt"
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


@dataclass(frozen=True)
class Shards:
    """Loads images out of tar files, without unpacking them.

    Attributes:
        root: Folder that all shards lie below.
        places: Path of an image -> its shard, and offset and size in bytes there.
    """

    root: Path
    places: dict[str, tuple[Path, int, int]]

    def __call__(self, path: str) -> Image:
        """Return the image as RGB at its stored size.

        Raises:
            DataError: The shard is gone, or the image is damaged.
        """
        return self.decode(self.content(path), path)

    def content(self, path: str) -> bytes:
        """Return what is in the image file.

        Raises:
            DataError: The shard cannot be read, or has become shorter.
        """
        shard, offset, size = self.places[path]
        try:
            with open_regular(shard) as file:
                file.seek(offset)
                content = file.read(size)
        except OSError as error:
            raise DataError(f"shard {shard} cannot be read: {error.strerror or error}", path=shard) from error
        if len(content) < size:
            raise DataError(f"shard {shard} ends within image {path}", path=shard)
        return content

    def identify(self, paths: Sequence[str]) -> str:
        """Return a hash of the names and contents of the shards that images are in.

        Raises:
            DataError: A shard is gone or cannot be read.
        """
        shards = {self.places[path][0] for path in paths}
        return by_content(self.root, [shard.relative_to(self.root).as_posix() for shard in shards])

    def decode(self, content: bytes, path: str) -> Image:
        """Return the image of a file's content as RGB at its stored size.

        Raises:
            DataError: The content is damaged.
        """
        from clipfit_cli.data.files.decode import decode_content

        return decode_content(content, self.root / path)


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
    splits = [_split(shard.relative_to(root)) for shard in shards]
    if None in splits and any(splits):
        nameless = shards[splits.index(None)]
        raise DataError(f"the name of shard {nameless} has no split (train, val or test) in it, others have one")
    names = _class_names(root)
    places: dict[str, tuple[Path, int, int]] = {}
    found: list[tuple[str, Labelled, Split | None]] = []
    for shard, split in zip(shards, splits, strict=True):
        for member, label, offset, size in _samples(shard, names):
            path = f"{shard.relative_to(root).as_posix()}/{member}"
            places[path] = (shard, offset, size)
            found.append((path, Labelled(label, None, f"{shard}, {member}"), split))
    if not found:
        raise DataError(f"the {len(shards)} shards of {pattern} hold no images")
    if names:
        found = [(path, _named(one, names), split) for path, one, split in found]
    class_names, labels = number_classes([one for _, one, _ in found])
    entries = tuple(Entry(path, label, split) for (path, _, split), label in zip(found, labels, strict=True))
    images = Shards(root, places)
    return Listing(class_names, entries, images, images.identify)


def shard_paths(pattern: str) -> list[Path]:
    """Return the tar files of a pattern, sorted, absolute.

    Args:
        pattern: A file, a folder (all tar files below it), or a name with ``*`` and ``?``, ``{000..009}`` or
            ``{train,test}``.

    Raises:
        ConfigError: It is a URL, which cannot be read from.
    """
    if "://" in pattern:
        raise ConfigError(f"shards are read from files, not from {pattern}; download them and give their path")
    path = Path(pattern).expanduser()
    if path.is_dir():
        return sorted(found.absolute() for found in path.rglob("*.tar"))
    if path.is_file():
        return [path.absolute()]
    matches = {found for name in _expanded(str(path)) for found in glob.glob(name)}  # noqa: PTH207
    return sorted(Path(found).absolute() for found in matches)


def _expanded(pattern: str) -> Iterator[str]:
    """Yield the names that braces stand for."""
    head, brace, rest = pattern.partition("{")
    inner, close, tail = rest.partition("}")
    if not (brace and close):
        yield pattern
        return
    numbers = _RANGE.fullmatch(inner)
    if numbers:
        first, last = numbers.groups()
        words: Sequence[str] = [f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)]
    else:
        words = inner.split(",")
    for word in words:
        for end in _expanded(tail):
            yield f"{head}{word}{end}"


def _split(name: Path) -> Split | None:
    """Return the split that a shard's own name, or else a folder above it, is called by."""
    for part in reversed(name.parts):
        for word in re.split(r"[^A-Za-z]+", part):
            if split := split_of(word):
                return split
    return None


def _samples(shard: Path, names: list[str]) -> Iterator[tuple[str, int, int, int]]:
    """Yield image, label, offset and size of the samples of a shard; notes class names that come with it."""
    images: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, int] = {}
    try:
        size = shard.stat().st_size
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"{member.name} goes beyond its end")
                folder, slash, file = member.name.rpartition("/")
                stem, _, suffix = file.partition(".")
                key = f"{folder}{slash}{stem}"
                if f".{suffix.lower()}" in IMAGE_SUFFIXES:
                    if key in images:
                        raise DataError(f"shard {shard} has two images of the key {key!r}", path=shard)
                    images[key] = (member.name, member.offset_data, member.size)
                elif suffix.lower() == "cls":
                    labels[key] = _label(archive, member, shard)
                elif file == CLASS_NAMES_FILE and not names:
                    names += _lines(_content(archive, member), f"{shard}, {member.name}")
    except (tarfile.TarError, OSError) as error:
        raise DataError(
            f"shard {shard} is not a sound, uncompressed tar file ({error}); unpack .gz, or fetch it anew", path=shard
        ) from error
    for key in sorted(images.keys() ^ labels.keys()):
        lacks = f"no label {key}.cls" if key in images else f"a label {key}.cls without an image"
        raise DataError(f"shard {shard} has {lacks}", path=shard)
    for key in sorted(images):
        yield (images[key][0], labels[key], *images[key][1:])


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return file.read() if file else b""


def _label(archive: tarfile.TarFile, member: tarfile.TarInfo, shard: Path) -> int:
    text = _content(archive, member).strip()
    if not text.isdigit():
        raise DataError(f"shard {shard}: {member.name} holds {text[:40]!r}, not a whole number from 0", path=shard)
    return int(text)


def _class_names(root: Path) -> list[str]:
    """Return the class names that stand beside the shards, if any."""
    for folder in (root, root.parent):
        path = folder / CLASS_NAMES_FILE
        if path.is_file():
            return _lines(path.read_bytes(), str(path))
    return []


def _lines(content: bytes, where: str) -> list[str]:
    try:
        return content.decode("utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 text ({error})") from error


def _named(one: Labelled, names: list[str]) -> Labelled:
    if one.label is None or one.label >= len(names):
        raise DataError(f"{one.where} has label {one.label}, but {CLASS_NAMES_FILE} names {len(names)} classes")
    return Labelled(one.label, names[one.label].strip(), one.where)
