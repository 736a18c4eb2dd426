"""`clipfit eval --alpha`: tests along the way from zero-shot CLIP to a trained adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from clipfit_cli.cli.console import emit, note, save
from clipfit_cli.cli.execute import execute
from clipfit_cli.cli.model_options import ModelOptions
from clipfit_cli.cli.options import METHOD_PANEL, OUTPUT_PANEL
from clipfit_cli.cli.output_options import RunOptions
from clipfit_cli.cli.plot import form_of
from clipfit_cli.cli.request import Asked
from clipfit_cli.cli.words import parse_alphas, split_names
from clipfit_cli.config import Subset
from clipfit_cli.errors import ConfigError

if TYPE_CHECKING:
    from clipfit_cli.config import RunConfig
    from clipfit_cli.reports.tables import Table
    from clipfit_cli.results.record import Finished
    from clipfit_cli.results.store import RunStore
    from clipfit_cli.runs.workspace import Workspace

AlphaOption = Annotated[
    str | None,
    typer.Option(
        metavar="A:B:STEP",
        help="With --adapter: test weights between zero-shot CLIP's (0) and the trained ones (1), a test each: "
        "START:STOP:STEP such as 0:1:0.1, or a comma list. The best on the training's validation images is marked. "
        "--subset then takes several: base,new.",
        rich_help_panel=METHOD_PANEL,
    ),
]
PlotOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="With --alpha: draw accuracy along alpha, too; a PDF, SVG or PNG by its ending.",
        rich_help_panel=OUTPUT_PANEL,
    ),
]


def check_alphas(alpha: str | None, plot: str | None, adapter: str | None, output: RunOptions) -> tuple[float, ...]:
    """Return the points that ``--alpha`` names; nothing where it was not given.

    Raises:
        ConfigError: They are not possible, lack an adapter, or stand beside what says nothing to them.
    """
    if alpha is None:
        if plot:
            raise ConfigError("--plot of eval shows accuracy along --alpha; give that, too")
        return ()
    if not adapter:
        raise ConfigError("--alpha leads from zero-shot CLIP to what a run learnt; name the run with --adapter")
    if output.metric or output.per_seed:
        raise ConfigError(
            "--alpha goes with neither --metric nor --per-seed; clipfit results has every metric of every point"
        )
    if plot:
        form_of("--plot", plot)
    return parse_alphas(alpha)


def subsets_of(text: str) -> list[Subset]:
    """Return the class groups that ``--subset`` names beside ``--alpha``."""
    return [cast(Subset, name) for name in split_names([text])]


def run_along_alpha(
    asked: Asked,
    machine: ModelOptions,
    output: RunOptions,
    *,
    alphas: Sequence[float],
    subsets: Sequence[Subset],
    plot: str | None,
    **planned: Any,
) -> None:
    """Make the tests that are missing, ask the validation images, print the table and draw the plot.

    Args:
        asked, machine, output: See `execute`.
        alphas: Points.
        subsets: Class groups of each data set.
        plot: File, if any.
        planned: Of `plan_of_tests`: the adapter.
    """
    from clipfit_cli.protocols import alphas as rules
    from clipfit_cli.protocols.planning import plan_of_tests

    plan = [
        config
        for subset in subsets
        for config in plan_of_tests(replace(asked.request, subset=subset), alphas=alphas, **planned)
    ]
    plan.sort(key=lambda config: asked.request.datasets.index(config.dataset))
    selection = rules.Selection(
        why_none="they were not asked, as not all points were tested, or the command was stopped"
    )

    def select(configs: Sequence[RunConfig], workspace: Workspace, store: RunStore) -> None:
        from clipfit_cli.runs.alphas import select_on_validation

        nonlocal selection
        note("asking the validation images of the training ...", quiet=output.quiet)
        selection = select_on_validation(configs[0], workspace, store, alphas, fresh=output.force)

    def show(table: Table, _: Sequence[Finished]) -> None:
        emit(table, output, for_people=rules.grids_along_alpha(table))
        if plot:
            from clipfit_cli.reports.figures import to_bytes
            from clipfit_cli.reports.plot_alpha import along_alpha

            save(plot, to_bytes(along_alpha(table), form_of("--plot", plot)), quiet=output.quiet)

    def summarise(records: Sequence[Finished], **_: Any) -> Table:
        return rules.table_along_alpha(records, selection)

    execute(plan, asked, machine, output, summarise, show, select)
