"""A list of a user's own images: CSV or JSONL with the columns path, label, class_name and split."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePath

from clipfit_cli.data.files.folder import ImageFolder
from clipfit_cli.data.lists.own.listing import (
    SPLIT_WORDS,
    Entry,
    Labelled,
    Listing,
    Split,
    number_classes,
    split_of,
    whole_number,
)
from clipfit_cli.errors import DataError
from clipfit_cli.files import file_sha256, read_text

DELIMITERS = {".csv": ",", ".tsv": "\t"}
COLUMNS = ("path", "label", "class_name", "split")
JSON_SUFFIXES = (".jsonl", ".ndjson")

Row = tuple[int, dict[str, str]]
"""Line in the file, and column -> text; what is empty is left out."""


def read(file: Path) -> Listing:
    """Return what the file lists; images are not opened and need not be there.

    ``path`` is needed, absolute or relative to the file's folder, and of ``label`` (whole numbers from 0) and
    ``class_name`` at least one. Other columns are passed over.

    Raises:
        DataError: The file is not what its name says, not UTF-8, or empty; a column is missing; a row has a bad
            label, an unknown split, no path, or an image that came before; only some rows name a split.
    """
    rows = list(_json_rows(file) if file.suffix.lower() in JSON_SUFFIXES else _csv_rows(file))
    if not rows:
        raise DataError(f"{file} lists no images", path=file)
    given: list[Labelled] = []
    splits: list[Split | None] = []
    lines: dict[str, int] = {}
    for line, row in rows:
        where = f"{file}, line {line}"
        path = _relative(file.parent, row.get("path", ""), where)
        if path in lines:
            raise DataError(f"{where}: the image {path} was listed in line {lines[path]} already", path=file)
        lines[path] = line
        given.append(Labelled(_label(row, where), row.get("class_name"), where))
        splits.append(_split(row, where))
    if None in splits and any(splits):
        line = rows[splits.index(None)][0]
        raise DataError(f"{file}, line {line} names no split, others do; fill the column, or leave it out", path=file)
    class_names, labels = number_classes(given)
    entries = tuple(Entry(*one) for one in zip(lines, labels, splits, strict=True))
    return Listing(class_names, entries, ImageFolder(file.parent), file_sha256(file))


def _csv_rows(file: Path) -> Iterator[Row]:
    """Yield the rows of a CSV or TSV file with a head."""
    reader = csv.reader(io.StringIO(_text(file), newline=""), delimiter=DELIMITERS[file.suffix.lower()], strict=True)
    try:
        head = [name.strip().lower() for name in next(reader, [])]
        if "path" not in head or not {"label", "class_name"} & set(head):
            raise DataError(
                f"{file} must have the columns path and label or class_name (and may have split) in its first line; "
                f"it has {', '.join(head) or 'none'}",
                path=file,
            )
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(head):
                raise DataError(
                    f"{file}, line {reader.line_num} has {len(cells)} cells, its head {len(head)}; "
                    "put text with a comma between double quotes",
                    path=file,
                )
            yield reader.line_num, {name: cell.strip() for name, cell in zip(head, cells, strict=True) if cell.strip()}
    except csv.Error as error:
        raise DataError(f"{file}, line {reader.line_num} is not as CSV must be: {error}", path=file) from error


def _json_rows(file: Path) -> Iterator[Row]:
    """Yield the rows of a JSONL file: one object a line."""
    for line, text in enumerate(_text(file).split("\n"), start=1):
        if not text.strip():
            continue
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file}, line {line} is not JSON: {error}", path=file) from error
        if not isinstance(values, dict):
            raise DataError(f"{file}, line {line} is not an object such as {{'path': ...}}", path=file)
        cells = {name.lower(): value for name, value in values.items() if value not in (None, "")}
        if not all(isinstance(cells.get(name), str | int | float | None) for name in COLUMNS):
            raise DataError(f"{file}, line {line}: expected texts or numbers for {', '.join(COLUMNS)}", path=file)
        yield line, {name: str(cells[name]).strip() for name in COLUMNS if name in cells}


def _text(file: Path) -> str:
    """Return the file's text, without the mark that some programs put before it."""
    try:
        return read_text(file)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}", path=file) from error


def _relative(folder: Path, text: str, where: str) -> str:
    """Return the path with forward slashes, relative to the file's folder where it lies below that."""
    if not text:
        raise DataError(f"{where} has no path")
    path = PurePath(os.path.normpath(text))
    if path.is_absolute() and path.is_relative_to(folder):
        path = path.relative_to(folder)
    return path.as_posix()


def _label(row: dict[str, str], where: str) -> int | None:
    """Return the label of a row; None where only the class name is given."""
    text = row.get("label")
    if text is None:
        if "class_name" not in row:
            raise DataError(f"{where} has neither label nor class_name")
        return None
    return whole_number(text, f"{where}: the label")


def _split(row: dict[str, str], where: str) -> Split | None:
    """Return the split of a row; None where the row names none."""
    text = row.get("split")
    if text is None:
        return None
    split = split_of(text)
    if split is None:
        raise DataError(f"{where}: the split {text!r} is none of {', '.join(SPLIT_WORDS)}")
    return split
