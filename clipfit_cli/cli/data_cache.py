"""`clipfit data cache`, and the cache that the running commands open."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipfit_cli.cli.console import emit, note
from clipfit_cli.cli.options import CacheFolderOptions, CacheOptions, OutputOptions, command
from clipfit_cli.data.pixels.disk_cache import DiskCache, cache_usage, clear_cache, default_cache_folder
from clipfit_cli.errors import ConfigError

if TYPE_CHECKING:
    from clipfit_cli.data.pixels.crop_cache import CropCache

AUTO = "auto"


def cache_folder(given: str | None) -> Path | None:
    """Return the folder that ``--image-cache`` names; None where it was not given."""
    if not given:
        return None
    return default_cache_folder() if given == AUTO else Path(given).expanduser().absolute()


def open_crop_cache(options: CacheOptions, say: Callable[[str], None]) -> CropCache | None:
    """Return the cache of test images that the options ask for; None where they ask for none.

    Args:
        options: As typed.
        say: Told once if the cache takes no more.

    Raises:
        ConfigError: Its size is 0 or no number, or its folder is a file.
    """
    folder = cache_folder(options.image_cache)
    if folder is None:
        return None
    if not math.isfinite(options.image_cache_size):
        raise ConfigError(f"--image-cache-size must be a number of GiB, got {options.image_cache_size}")
    from clipfit_cli.data.pixels.crop_cache import CropCache

    return CropCache(DiskCache(folder, limit_bytes=int(options.image_cache_size * 2**30), on_note=say))


@command
def cache(
    place: CacheFolderOptions,
    output: OutputOptions,
    clear: Annotated[
        bool, typer.Option("--clear", help="Remove all that it holds; other files stay.", rich_help_panel="Data")
    ] = False,
) -> None:
    """Show the cache of prepared test images and their features, or empty it.

    Without --image-cache it is the one in your user cache folder.
    """
    folder = cache_folder(place.image_cache) or default_cache_folder()
    from clipfit_cli.reports.tables import Column, Table

    if clear:
        removed = clear_cache(folder)
        what = f"{removed.num_pixels} prepared images and features of {removed.num_features}"
        note(f"removed {what}, {removed.num_bytes / 2**20:.1f} MiB", quiet=output.quiet)
    held = cache_usage(folder)
    columns = (
        Column("folder", "folder", "prose"),
        Column("num_images", "images", "int"),
        Column("num_features", "features", "int"),
        Column("size_mib", "size", "mib"),
    )
    row = {
        "folder": str(folder),
        "num_images": held.num_pixels,
        "num_features": held.num_features,
        "size_mib": held.num_bytes / 2**20,
    }
    emit(Table("Prepared test images", columns, (row,)), output)
