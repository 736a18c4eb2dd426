"""ImageNet is nobody's to pass on: the user's own copy is checked and linked into the data root."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from clipfit_cli.data.catalog import CatalogRow
from clipfit_cli.data.check.status import dataset_status
from clipfit_cli.data.fetch.transfer import Outcome, Way, put_list
from clipfit_cli.data.sources import CLASS_NAMES_FILE
from clipfit_cli.errors import DataError
from clipfit_cli.files import expanded

_LAYOUT = (
    "DIR/train/<WordNet id>/*.JPEG and DIR/val/<WordNet id>/*.JPEG with 1,000 folders each (or both below DIR/images "
    "or DIR/ILSVRC/Data/CLS-LOC)"
)
_PLACES = ("images", "", "ILSVRC/Data/CLS-LOC")
_WNID = re.compile(r"n\d{8}")


def link_imagenet(row: CatalogRow, way: Way, own: Path | None) -> Outcome:
    """Link a copy of ImageNet into the data root, with the list of class names beside the link.

    Args:
        row: Of ImageNet.
        way: Where to, and how the class names may be had.
        own: The copy.

    Raises:
        DataError: There is none, it is laid out otherwise, or it is not whole.
        OSError: It cannot be read, or the data root cannot be written.
    """
    if own is None:
        raise DataError(
            "ImageNet may not be passed on, so it cannot be fetched. Accept its terms and download it at "
            f"https://huggingface.co/datasets/ILSVRC/imagenet-1k or {row.homepage}, then run "
            f"`clipfit data get imagenet --imagenet-root DIR`; expected is {_LAYOUT}",
            path=way.root / row.folder,
        )
    own = expanded(own).absolute()
    images = _images(own)
    with way.staging(row.name) as staging:
        folder = staging / row.folder
        folder.mkdir(parents=True)
        (folder / row.image_folder).symlink_to(images, target_is_directory=True)
        if (own / CLASS_NAMES_FILE).is_file():
            shutil.copyfile(own / CLASS_NAMES_FILE, folder / CLASS_NAMES_FILE)
        put_list(row, folder, way)
        way.say(f"{row.name}: counting the images below {images}")
        status = dataset_status(row.name, staging)
        if status.state != "present":
            raise DataError(f"the ImageNet in {own} is not whole: {status.message}", path=own)
        folder.replace(way.root / row.folder)  # in one step; fails if anything is there by now
    return Outcome(row.name, "linked", way.root / row.folder, url=str(images))


def _images(own: Path) -> Path:
    """Return the folder that holds ``train`` and ``val``."""
    for images in (own / place for place in _PLACES):
        if all(_has_classes(images / split) for split in ("train", "val")):
            return images
    flat = next((own / p / "val" for p in _PLACES if (own / p / "val").is_dir()), None)
    hint = f"; {flat} has no folder per class (sort its images into them first)" if flat else ""
    raise DataError(f"{own} is not laid out as ImageNet: expected {_LAYOUT}{hint}", path=own)


def _has_classes(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(_WNID.fullmatch(entry.name) and entry.is_dir() for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return False
