"""`clipfit data`: its commands list, path, show and cache stand here, get and check in a file of their own."""

from __future__ import annotations

from typing import Annotated, cast

import typer

from clipfit_cli.cli.console import emit, note, print_path
from clipfit_cli.cli.data_get import check, get
from clipfit_cli.cli.options import RootOptions, SubsetOptions, command, complete_dataset
from clipfit_cli.cli.output_options import DEFAULT_RUNS_DIR, CacheFolderOptions, OutputOptions, RunsDir
from clipfit_cli.cli.prompts import PromptOptions, choose_templates
from clipfit_cli.cli.request import cache_folder, data_root_of, own_datasets, splits_dir_of
from clipfit_cli.cli.words import parse_shots
from clipfit_cli.config import Subset
from clipfit_cli.data import catalog
from clipfit_cli.data.shifts import FRAME, KINDS, SEVERITIES
from clipfit_cli.errors import ConfigError, counted
from clipfit_cli.reports.tables import Column, Table

app = typer.Typer(no_args_is_help=True, help="Fetch data sets, check them, and see which images a draw takes.")
app.command("get")(get)
app.command("check")(check)


@app.command("list")
@command
def list_(root: RootOptions, output: OutputOptions) -> None:
    """List every known data set: whether it is present and complete, and what is listed."""
    data_root = data_root_of(root.data_root)
    from clipfit_cli.data.check.status import dataset_status

    found = [dataset_status(name, data_root) for name in catalog.ALL]
    columns = (
        Column("dataset", "data set"),
        Column("title", "title", terminal=False),
        Column("state", "state"),
        Column("num_classes", "classes", "int"),
        Column("num_train", "train", "int"),
        Column("num_val", "val", "int"),
        Column("num_test", "test", "int"),
        Column("num_missing", "missing", "int"),
        Column("folder", "folder"),
        Column("message", "message", terminal=False),
    )
    rows = tuple(
        {
            "dataset": status.name,
            "title": status.title,
            "state": status.state,
            "num_classes": status.num_classes,
            "num_train": status.num_train,
            "num_val": status.num_val,
            "num_test": status.num_test,
            "num_missing": len(status.missing) or None,
            "folder": catalog.row(status.name).folder or None,
            "message": status.message,
        }
        for status in found
    )
    captions = tuple(f"{s.name}: {s.message}" for s in found if s.state == "incomplete")
    emit(Table(f"Data sets under {data_root}", columns, rows, captions), output)
    if all(status.state in ("missing", "built-in") for status in found):
        note(
            f"`clipfit data get NAME` fetches one; how to lay one out by hand: {catalog.GUIDE_URL}", quiet=output.quiet
        )


@app.command("shifts")
@command
def shifts(output: OutputOptions) -> None:
    """List the shifts of `clipfit robustness`, and the parameter v of each at its severities."""
    columns = (
        Column("shift", "shift"),
        Column("group", "group"),
        Column("what", "what is done", "prose"),
        *(
            Column(f"severity_{number}", f"v at {number}" if number == 1 else f"{number}", "number")
            for number in SEVERITIES
        ),
    )
    rows = tuple(
        {
            "shift": kind.name,
            "group": kind.group,
            "what": kind.what,
            **{f"severity_{number}": value for number, value in zip(SEVERITIES, kind.values, strict=True)},
        }
        for kind in KINDS.values()
    )
    emit(Table("Shifts of test images", columns, rows, (FRAME,)), output)


@app.command("path")
@command
def path(
    root: RootOptions,
    dataset: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Data set.", autocompletion=complete_dataset)
    ] = None,
) -> None:
    """Print the data root, or the folder of a data set, whether or not it is there."""
    data_root = data_root_of(root.data_root)
    row = catalog.row(dataset) if dataset is not None else None
    if row and not row.folder:
        raise ConfigError(f"data set {row.name!r} is built in: it has no folder")
    print_path(data_root / row.folder if row else data_root)


@app.command("show")
@command
def show(
    dataset: Annotated[
        str, typer.Argument(help="Data set, or your own images as with --dataset.", autocompletion=complete_dataset)
    ],
    root: RootOptions,
    prompts: PromptOptions,
    classes: SubsetOptions,
    output: OutputOptions,
    shots: Annotated[
        str, typer.Option(help="Training images per class; 'all' = every image.", rich_help_panel="Data")
    ] = "all",
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.", rich_help_panel="Data")] = 1,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
) -> None:
    """Show a data set; with --csv or --json, the very images of a draw.

    The split file is enough, the images need not be there.
    """
    counts = parse_shots(shots)
    if len(counts) != 1:
        raise ConfigError(f"data show takes one number of shots, got {shots}")
    from clipfit_cli.data.check.status import empty_images, missing_images
    from clipfit_cli.data.load import load_dataset
    from clipfit_cli.data.splits import class_subset, few_shot, short_classes

    (name,), own = own_datasets((dataset,), prompts.class_names)
    templates = choose_templates(prompts)
    splits_dir = splits_dir_of(runs_dir)
    whole = load_dataset(
        own.get(name, name), data_root_of(root.data_root), splits_dir=splits_dir if splits_dir.is_dir() else None
    )
    drawn = class_subset(few_shot(whole, shots=counts[0], seed=seed), cast(Subset, classes.subset))
    for class_name, count in short_classes(whole, counts[0]):
        few = f"{class_name} has {count} training images, fewer than {counts[0]}: all of them are used"
        note(few, quiet=output.quiet)
    lists = {"train": drawn.train, "val": drawn.val, "test": drawn.test}
    table = Table(
        f"Images of {drawn.name}",
        (
            Column("split", "split"),
            Column("path", "path"),
            Column("label", "label", "int"),
            Column("class_name", "class"),
        ),
        tuple(
            {"split": split, "path": item.path, "label": item.label, "class_name": drawn.class_names[item.label]}
            for split, items in lists.items()
            for item in items
        ),
    )
    everything = (*whole.train, *whole.val, *whole.test)
    missing = missing_images(whole, everything)
    lost = set(missing)
    empty = empty_images(whole, (item.path for item in everything if item.path not in lost))
    row = None if own else catalog.row(name)
    facts = {
        "prompts" if len(templates) > 1 else "prompt": "\n".join(templates or (whole.prompt_template,)),
        "images": ", ".join(f"{len(items)} {split}" for split, items in lists.items()),
        "missing": f"{counted(len(missing), 'listed image')}, the first is {missing[0]}" if missing else "",
        "empty": f"{counted(len(empty), 'listed image')}, the first is {empty[0]}" if empty else "",
        "split sha256": whole.split_file_sha256,
        "lists sha256": whole.split_sha256,
        "split": " ".join(note.removeprefix(f"{name}: ") for note in whole.notes),
        "from": own[name].location if own else whole.location,
        "licence": row.licence if row else "",
        "home": row.homepage if row else "",
        "cite": row.citation if row else "",
        f"{drawn.num_classes} classes": ", ".join(drawn.class_names),
    }
    shown = Table(
        "",
        (Column("what", name), Column("value", row.title if row else own[name].kind, "prose")),
        tuple({"what": what, "value": value} for what, value in facts.items() if value),
    )
    emit(table, output, for_people=shown)


@app.command("cache")
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

    folder = cache_folder(place.image_cache) or default_cache_folder()
    if clear:
        removed = clear_cache(folder)
        what = f"the features of {removed.num_lists} list{'s' * (removed.num_lists != 1)} of images"
        note(f"removed {what}, {removed.num_bytes / 2**20:.1f} MiB", quiet=output.quiet)
    held = cache_usage(folder)
    table = Table(
        "Features of test images",
        (
            Column("folder", "folder", "prose"),
            Column("num_lists", "lists", "int"),
            Column("size_mib", "size", "mib"),
        ),
        ({"folder": str(folder), "num_lists": held.num_lists, "size_mib": held.num_bytes / 2**20},),
    )
    emit(table, output)
