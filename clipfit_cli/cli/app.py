"""Assembles the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from clipfit_cli._version import __version__
from clipfit_cli.cli import data, methods, models, runs
from clipfit_cli.cli.adapters import export, predict
from clipfit_cli.cli.errors import reported
from clipfit_cli.cli.inspect import inspect
from clipfit_cli.cli.jobs import cancel, jobs
from clipfit_cli.cli.plot import plot
from clipfit_cli.cli.protocols import base2new, compare, eval_, train, xdataset
from clipfit_cli.cli.published import published
from clipfit_cli.cli.push import push
from clipfit_cli.cli.report import report
from clipfit_cli.cli.reproduce import reproduce
from clipfit_cli.cli.results import results
from clipfit_cli.cli.robustness import robustness
from clipfit_cli.cli.sensitivity import sensitivity

_TRAINING = "Train and test"
_FINISHED = "Look at finished runs"
_TRAINED = "Use what was trained"
_KNOWN = "See what there is"
_SLURM = "On Slurm"


class _Reporting(TyperGroup):
    """Reports what goes wrong in any command, and in reading its options."""

    @reported()
    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        return super().make_context(*args, **kwargs)

    @reported()
    def invoke(self, ctx: Any) -> Any:
        return super().invoke(ctx)


app = typer.Typer(
    cls=_Reporting,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"clipfit {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Benchmark few-shot fine-tuning of CLIP models: CLIPFit, its ablations and its rivals under one protocol.

    Without any data set, the commands run on a built-in one with a built-in model, offline, in minutes.
    """


def _command(panel: str, function: Callable[..., None], *examples: str, name: str | None = None) -> None:
    """Add a command under the heading of a panel, with examples."""
    lines = "\n\n".join(f"  {line}" for line in examples)
    app.command(name, epilog=f"[bold]Examples[/bold]\n\n{lines}", rich_help_panel=panel)(function)


_command(
    _TRAINING,
    train,
    "clipfit train --dataset dtd --shots 16",
    "clipfit train --dataset dtd --shots 1,2,4,8,16 --csv dtd.csv",
)
_command(
    _TRAINING,
    eval_,
    "clipfit eval --dataset dtd,eurosat",
    "clipfit eval --adapter dataset=dtd,method=clipfit,seed=1 --dataset dtd --subset new",
    "clipfit eval --adapter dataset=dtd,method=clipfit,seed=1 --dataset dtd --alpha 0:1:0.1",
    name="eval",
)
_command(
    _TRAINING,
    base2new,
    "clipfit base2new --dataset dtd",
    "clipfit base2new --dataset all --method clipfit --method bitfit",
)
_command(
    _TRAINING,
    xdataset,
    "clipfit xdataset --source imagenet --target dtd,eurosat",
    "clipfit xdataset --source textures",
)
_command(
    _TRAINING,
    compare,
    "clipfit compare --baseline bitfit",
    "clipfit compare --dataset dtd --baseline bitfit,layer-norm --csv -",
    "clipfit compare --baseline clipfit:regulariser=none",
    "clipfit compare --dataset all --baseline coop --published",
)
_command(
    _TRAINING,
    robustness,
    "clipfit robustness",
    "clipfit robustness --dataset dtd --shifts light,rotation --severity 1-5 --csv -",
    "clipfit robustness --dataset photos --shift sketches --baseline bitfit --plot shifts.pdf",
)
_command(
    _TRAINING,
    sensitivity,
    "clipfit sensitivity",
    "clipfit sensitivity --dataset dtd --factor fraction --plot fraction.pdf",
    "clipfit sensitivity --protocol few-shot --shots 4 --seeds 1,2,3 --csv points.csv",
)
_command(
    _TRAINING,
    reproduce,
    "clipfit reproduce",
    "clipfit reproduce builtin",
    "clipfit reproduce clipfit-base2new --dry-run",
    "clipfit reproduce gda-seeds --dataset dtd,eurosat --per-seed",
)
app.add_typer(runs.app, name="runs", rich_help_panel=_FINISHED)
_command(
    _FINISHED,
    results,
    "clipfit results --dataset dtd --method clipfit",
    "clipfit results --protocol base2new --metric ece,nll --csv -",
    "clipfit results dataset=dtd,method=clipfit,seed=1 --per-class",
)
_command(
    _FINISHED,
    report,
    "clipfit report --out report.html",
    "clipfit report --dataset dtd,eurosat --protocol base2new --leader bitfit --out table.tex",
    "clipfit report --format csv > numbers.csv",
)
_command(
    _FINISHED,
    plot,
    "clipfit plot tradeoff --out tradeoff.pdf",
    "clipfit plot shots --dataset dtd --highlight clipfit,coop --out shots.svg --csv shots.csv",
)
_command(
    _FINISHED,
    inspect,
    "clipfit inspect dataset=dtd,method=clipfit --plot depth.pdf",
    "clipfit inspect method=clipfit method=bitfit --images 0 --csv changes.csv",
)
_command(
    _TRAINED,
    predict,
    "clipfit predict --adapter dataset=dtd,method=clipfit,seed=1 photo.jpg pictures/",
    'clipfit predict --adapter method=clipfit,seed=1 photo.jpg --classes "cat,dog,red panda" --top 1 --json',
)
_command(
    _TRAINED,
    export,
    "clipfit export dataset=dtd,method=clipfit,seed=1 --out my-model",
)
_command(
    _TRAINED,
    push,
    "clipfit push dataset=dtd,method=clipfit,seed=1 ORG/NAME --licence cc-by-4.0 --dry-run my-adapter",
    "clipfit push dataset=dtd,method=clipfit,seed=1 ORG/NAME --licence cc-by-4.0 --private",
)
app.add_typer(data.app, name="data", rich_help_panel=_KNOWN)
app.add_typer(models.app, name="models", rich_help_panel=_KNOWN)
app.add_typer(methods.app, name="methods", rich_help_panel=_KNOWN)
_command(
    _KNOWN,
    published,
    "clipfit published --dataset dtd --protocol base2new",
    "clipfit published --method clip-lora --shots 4,16",
    "clipfit published --csv -",
)
_command(
    _SLURM,
    jobs,
    "clipfit jobs",
    "clipfit jobs dataset=dtd,method=clipfit --json",
)
_command(
    _SLURM,
    cancel,
    "clipfit cancel",
    "clipfit cancel 1234 --yes",
    "clipfit cancel method=coop --yes",
)
