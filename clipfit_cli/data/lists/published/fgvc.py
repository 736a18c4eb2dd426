"""FGVC Aircraft: the official text lists, one image number and one variant a line."""

from __future__ import annotations

from pathlib import Path

from clipfit_cli.data.catalog import CatalogRow
from clipfit_cli.data.dataset import DataSet, Item, hash_lists
from clipfit_cli.data.files.folder import ImageFolder
from clipfit_cli.data.lists.published.layout import dataset_folder, read_lines
from clipfit_cli.errors import DataError
from clipfit_cli.files import file_sha256

_LISTS = ("variants.txt", "images_variant_train.txt", "images_variant_val.txt", "images_variant_test.txt")


def read(row: CatalogRow, data_root: Path) -> DataSet:
    """Return the data set by its official lists; no image is touched.

    Raises:
        DataError: The folder or a list is missing, or a line is malformed.
    """
    folder = dataset_folder(row, data_root)
    variants, *lists = (folder / name for name in _LISTS)
    class_names = tuple(line.strip() for _, line in read_lines(row, variants, what="list of classes (variants.txt)"))
    labels = {name: label for label, name in enumerate(class_names)}
    train, val, test = (_read_list(row, path, labels) for path in lists)
    return DataSet(
        name=row.name,
        prompt_template=row.prompt_template,
        class_names=class_names,
        train=train,
        val=val,
        test=test,
        split_sha256=hash_lists(class_names, train, val, test),
        split_file_sha256=file_sha256(variants, *lists),
        load_image=ImageFolder(folder / row.image_folder),
    )


def _read_list(row: CatalogRow, path: Path, labels: dict[str, int]) -> tuple[Item, ...]:
    """Return the items of one list; a variant may contain blanks and slashes."""
    items: list[Item] = []
    for number, line in read_lines(row, path, what=f"image list ({path.name})"):
        image, _, variant = line.strip().partition(" ")
        if not image.isalnum() or variant.strip() not in labels:
            raise DataError(
                f"{path}: line {number} is {line[:100]!r}; expected an image number and one of the "
                f"{len(labels)} variants of variants.txt",
                path=path,
            )
        items.append(Item(f"{image}.jpg", labels[variant.strip()]))
    return tuple(items)
