"""`clipfit inspect`: what trainings did to weights and features."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, cast

import typer

from clipfit_cli.cli.adapters import BaseModelOptions
from clipfit_cli.cli.console import emit, note, save
from clipfit_cli.cli.model_options import DeviceName, PrecisionName, offline_if
from clipfit_cli.cli.options import DATA_PANEL, OUTPUT_PANEL, RootOptions, command, complete_dataset, complete_from
from clipfit_cli.cli.output_options import DEFAULT_RUNS_DIR, OutputOptions
from clipfit_cli.cli.plot import form_of
from clipfit_cli.cli.request import data_root_of, own_datasets, splits_dir_of
from clipfit_cli.cli.run_filters import RunFilters, RunsFolder, chosen_runs, find_folder
from clipfit_cli.config import PRECISIONS, Precision
from clipfit_cli.errors import ConfigError, check_known, counted
from clipfit_cli.files import expanded

_MEASURES = {"l2": "l2", "relative": "relative_pct", "rms": "rms", "largest": "largest"}


@command
def inspect(
    run: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN",
            help="Folder of a run, first digits of its key, or filters, which may fit several: "
            "dataset=dtd,method=clipfit. Runs that differ in their seeds alone are averaged. Or an adapter file, or "
            "hf:ORG/NAME[@REVISION] for one of the hub.",
        ),
    ],
    root: RootOptions,
    base: BaseModelOptions,
    output: OutputOptions,
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Whose test images are looked at: a data set, or images of your own. Default: what was trained on.",
            rich_help_panel=DATA_PANEL,
            autocompletion=complete_dataset,
        ),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Compare features of so many test images, spread evenly over the list; 0 = none. Default: all.",
            rich_help_panel=DATA_PANEL,
        ),
    ] = None,
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
    plot: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Draw the change over depth, too; a PDF, SVG or PNG by its ending.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None,
    measure: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=f"What the plot shows: {', '.join(_MEASURES)}; rms is the change per number.",
            rich_help_panel=OUTPUT_PANEL,
            autocompletion=complete_from(_MEASURES),
        ),
    ] = "rms",
    per_tensor: Annotated[
        bool, typer.Option("--per-tensor", help="Show every tensor.", rich_help_panel=OUTPUT_PANEL)
    ] = False,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="Show the features of every class.", rich_help_panel=OUTPUT_PANEL)
    ] = False,
    runs_dir: RunsFolder = DEFAULT_RUNS_DIR,
) -> None:
    """Show how far training moved the weights, block by block, and what that did to class and image features.

    For methods that edit CLIP's own weights. CSV and JSON have tensors, blocks, towers and classes, all in one.
    """
    check_known("measure", measure, _MEASURES)
    check_known("precision", precision, PRECISIONS)
    form = form_of("--plot", plot) if plot else None
    say = partial(note, quiet=output.quiet)
    folders = _folders(run, runs_dir, quiet=output.quiet, offline=base.offline)
    say(f"looking into {counted(len(folders), 'adapter')}: loading torch and open_clip ...")
    from clipfit_cli.adapters.inspect import Looking, inspect_adapters
    from clipfit_cli.engine.environment import resolve_device
    from clipfit_cli.reports.inspection import table_of_inspections, tables_for_people
    from clipfit_cli.runs.workspace import Workspace

    with offline_if(base.offline):
        names, own = own_datasets([dataset] if dataset else [])
        machine = resolve_device(device)
        workspace = Workspace(
            data_root=data_root_of(root.data_root),
            device=machine,
            say=say,
            own=own,
            splits_dir=splits_dir_of(runs_dir),
        )
        found = inspect_adapters(
            folders,
            Looking(
                workspace=workspace,
                precision=cast(Precision, precision),
                dataset=names[0] if names else None,
                num_images=images,
                backbone=base.backbone,
                pretrained=base.pretrained,
                say=say,
            ),
        )
    table = table_of_inspections(found)
    emit(table, output, for_people=tables_for_people(found, table, per_tensor=per_tensor, per_class=per_class))
    if plot and form:
        from clipfit_cli.reports.figures import to_bytes
        from clipfit_cli.reports.plot_depth import over_depth

        save(plot, to_bytes(over_depth(table, _MEASURES[measure]), form), quiet=output.quiet)


def _folders(words: Sequence[str], runs_dir: Path, *, quiet: bool, offline: bool) -> list[Path]:
    """Return the folders that words name, each once: an adapter's as it is, else those of all runs that are meant.

    Where a word names several runs, those without an adapter are left out.

    Args:
        words, runs_dir: As typed.
        quiet: Do not say what is fetched of the hub.
        offline: Do not touch the network.

    Raises:
        ConfigError: A word is not possible, or names nothing but what trains nothing.
        ResultsError: A word names no run, or one whose record cannot be read.
        ModelError: An adapter of the hub is not to be had.
    """
    from clipfit_cli.results.filters import names_runs
    from clipfit_cli.results.store import RECORD_FILE

    found: list[Path] = []
    for word in words:
        if not names_runs(word) and not os.path.isfile(expanded(word) / RECORD_FILE):  # noqa: PTH113 - may be too long
            found.append(find_folder(word, runs_dir, quiet=quiet, offline=offline))
            continue
        runs = chosen_runs([word], RunFilters(), runs_dir, quiet=True)
        kept = [one for one in runs if one.run.adapter_file]
        if not kept and not any(one.run.config.stages or one.run.scored_adapter for one in runs):
            raise ConfigError(f"{runs[0].run.config.method} trains nothing, so there is no change to inspect")
        if kept and len(kept) < len(runs):
            note(f"left out: {counted(len(runs) - len(kept), 'run')} of {word} without an adapter", quiet=quiet)
        found += [one.folder for one in kept or runs[:1]]
    return list(dict.fromkeys(found))
