"""`clipfit data cache`, and the cache that the running commands open."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipfit_cli.cli.console import emit, note
from clipfit_cli.cli.options import CacheFolderOptions, CacheOptions, OutputOptions, command
from clipfit_cli.errors import ConfigError
from clipfit_cli.files import expanded

if TYPE_CHECKING:
    from clipfit_cli.data.pixels.disk_cache import DiskCache


def cache_folder(given: str | None) -> Path | None:
    """Return the folder that ``--image-cache`` names; None where it was not given.

    Raises:
        ConfigError: It names the home folder of nobody, or is no path.
    """
    from clipfit_cli.data.pixels.disk_cache import default_cache_folder

    if not given:
        return None
    return default_cache_folder() if given == "auto" else expanded(given).absolute()


def open_image_cache(options: CacheOptions, say: Callable[[str], None]) -> DiskCache | None:
    """Return the cache that the options ask for; None where they ask for none.

    Args:
        options: As typed.
        say: Told once if the cache takes no more.

    Raises:
        ConfigError: Its size is 0 or no number, or its folder is a file.
    """
    from clipfit_cli.data.pixels.disk_cache import DiskCache

    folder = cache_folder(options.image_cache)
    if folder is None:
        return None
    if not math.isfinite(options.image_cache_size):
        raise ConfigError(f"--image-cache-size must be a number of GiB, got {options.image_cache_size}")
    return DiskCache(folder, limit_bytes=int(options.image_cache_size * 2**30), on_note=say)


@command
def cache(
    place: CacheFolderOptions,
    output: OutputOptions,
    clear: Annotated[
        bool, typer.Option("--clear", help="Remove all that it holds; other files stay.", rich_help_panel="Data")
    ] = False,
) -> None:
    """Show the cache of the features of test images, or empty it.

    Without --image-cache it is the one in your user cache folder.
    """
    from clipfit_cli.data.pixels.disk_cache import cache_usage, clear_cache, default_cache_folder
    from clipfit_cli.reports.tables import Column, Table

    folder = cache_folder(place.image_cache) or default_cache_folder()
    if clear:
        removed = clear_cache(folder)
        what = f"the features of {removed.num_lists} list{'s' * (removed.num_lists != 1)} of images"
        note(f"removed {what}, {removed.num_bytes / 2**20:.1f} MiB", quiet=output.quiet)
    held = cache_usage(folder)
    columns = (
        Column("folder", "folder", "prose"),
        Column("num_lists", "lists", "int"),
        Column("size_mib", "size", "mib"),
    )
    row = {"folder": str(folder), "num_lists": held.num_lists, "size_mib": held.num_bytes / 2**20}
    emit(Table("Features of test images", columns, (row,)), output)
