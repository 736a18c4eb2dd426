"""A list of a user's own images: CSV or JSONL with the columns path, label, class_name and split."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePath

from clipfit_cli.data.files.folder import ImageFolder
from clipfit_cli.data.files.identity import reading
from clipfit_cli.data.lists.own.listing import (
    SPLIT_WORDS,
    Entry,
    Listing,
    Split,
    listing_of,
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
    with reading("list", file):
        text, sha256 = read_text(file), file_sha256(file)
    rows = list((_json_rows if file.suffix.lower() in JSON_SUFFIXES else _csv_rows)(file, text))
    if not rows:
        raise DataError(f"{file} lists no images", path=file)
    found: list[Entry] = []
    lines: dict[str, int] = {}
    for line, row in rows:
        where = f"{file}, line {line}"
        path = _relative(file.parent, row.get("path", ""), where)
        if lines.setdefault(path, line) != line:
            raise DataError(f"{where}: the image {path} was listed in line {lines[path]} already", path=file)
        found.append(Entry(path, _label(row, where), _split(row, where), row.get("class_name"), where))
    return listing_of(found, ImageFolder(file.parent), file_sha256=sha256)


def _csv_rows(file: Path, text: str) -> Iterator[Row]:
    """Yield the rows of a CSV or TSV file with a head."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=DELIMITERS[file.suffix.lower()], strict=True)
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


def _json_rows(file: Path, whole: str) -> Iterator[Row]:
    """Yield the rows of a JSONL file: one object a line."""
    for line, text in enumerate(whole.split("\n"), start=1):
        if not text.strip():
            continue
        try:
            values = dict(json.loads(text))
        except (ValueError, TypeError, RecursionError) as error:
            raise DataError(f"{file}, line {line} is not a JSON object such as {{'path': ...}}: {error}") from error
        cells = {str(name).lower(): value for name, value in values.items() if value not in (None, "")}
        if not all(isinstance(cells.get(name), str | int | float | None) for name in COLUMNS):
            raise DataError(f"{file}, line {line}: expected texts or numbers for {', '.join(COLUMNS)}", path=file)
        yield line, {name: str(cells[name]).strip() for name in COLUMNS if name in cells}


def _relative(folder: Path, text: str, where: str) -> str:
    """Return the path with forward slashes, relative to the file's folder where it lies below that."""
    if not text:
        raise DataError(f"{where} has no path")
    path = PurePath(os.path.normpath(text))
    if path.is_absolute() and path.is_relative_to(folder):
        path = path.relative_to(folder)
    return path.as_posix()


def _label(row: dict[str, str], where: str) -> int:
    """Return the label of a row; -1 where only the class name is given."""
    if "label" in row:
        return whole_number(row["label"], f"{where}: the label")
    if "class_name" not in row:
        raise DataError(f"{where} has neither label nor class_name")
    return -1


def _split(row: dict[str, str], where: str) -> Split | None:
    """Return the split of a row; None where the row names none."""
    split = split_of(row.get("split", ""))
    if split is None and "split" in row:
        raise DataError(f"{where}: the split {row['split']!r} is none of {', '.join(SPLIT_WORDS)}")
    return split
