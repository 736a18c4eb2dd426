"""Assembles the command line."""

from __future__ import annotations

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


def _examples(*lines: str) -> str:
    return "[bold]Examples[/bold]\n\n" + "\n\n".join(f"  {line}" for line in lines)


app.command(
    epilog=_examples(
        "clipfit train --dataset dtd --shots 16", "clipfit train --dataset dtd --shots 1,2,4,8,16 --csv dtd.csv"
    )
)(train)
app.command(
    "eval",
    epilog=_examples(
        "clipfit eval --dataset dtd,eurosat",
        "clipfit eval --adapter dataset=dtd,method=clipfit,seed=1 --dataset dtd --subset new",
        "clipfit eval --adapter dataset=dtd,method=clipfit,seed=1 --dataset dtd --alpha 0:1:0.1",
    ),
)(eval_)
app.command(
    epilog=_examples(
        "clipfit base2new --dataset dtd", "clipfit base2new --dataset all --method clipfit --method bitfit"
    )
)(base2new)
app.command(
    epilog=_examples("clipfit xdataset --source imagenet --target dtd,eurosat", "clipfit xdataset --source textures")
)(xdataset)
app.command(
    epilog=_examples(
        "clipfit compare --baseline bitfit",
        "clipfit compare --dataset dtd --baseline bitfit,layer-norm --csv -",
        "clipfit compare --baseline clipfit:regulariser=none",
        "clipfit compare --dataset all --baseline coop --published",
    )
)(compare)
app.command(
    epilog=_examples(
        "clipfit robustness",
        "clipfit robustness --dataset dtd --shifts light,rotation --severity 1-5 --csv -",
        "clipfit robustness --dataset photos --shift sketches --baseline bitfit --plot shifts.pdf",
    )
)(robustness)
app.command(
    epilog=_examples(
        "clipfit published --dataset dtd --protocol base2new",
        "clipfit published --method clip-lora --shots 4,16",
        "clipfit published --csv -",
    )
)(published)
app.command(
    epilog=_examples(
        "clipfit results --dataset dtd --method clipfit",
        "clipfit results --protocol base2new --metric ece,nll --csv -",
        "clipfit results dataset=dtd,method=clipfit,seed=1 --per-class",
    )
)(results)
app.command(
    epilog=_examples(
        "clipfit report --out report.html",
        "clipfit report --dataset dtd,eurosat --protocol base2new --leader bitfit --out table.tex",
        "clipfit report --format csv > numbers.csv",
    )
)(report)
app.command(
    epilog=_examples(
        "clipfit plot tradeoff --out tradeoff.pdf",
        "clipfit plot shots --dataset dtd --highlight clipfit,coop --out shots.svg --csv shots.csv",
    )
)(plot)
app.command(
    epilog=_examples(
        "clipfit reproduce",
        "clipfit reproduce builtin",
        "clipfit reproduce clipfit-base2new --dry-run",
        "clipfit reproduce gda-seeds --dataset dtd,eurosat --per-seed",
    )
)(reproduce)
app.command(
    epilog=_examples(
        "clipfit sensitivity",
        "clipfit sensitivity --dataset dtd --factor fraction --plot fraction.pdf",
        "clipfit sensitivity --protocol few-shot --shots 4 --seeds 1,2,3 --csv points.csv",
    )
)(sensitivity)
app.command(
    epilog=_examples(
        "clipfit predict --adapter dataset=dtd,method=clipfit,seed=1 photo.jpg pictures/",
        'clipfit predict --adapter method=clipfit,seed=1 photo.jpg --classes "cat,dog,red panda" --top 1 --json',
    )
)(predict)
app.command(
    epilog=_examples("clipfit export dataset=dtd,method=clipfit,seed=1 --out my-model"),
)(export)
app.command(
    epilog=_examples("clipfit jobs", "clipfit jobs dataset=dtd,method=clipfit --json"),
)(jobs)
app.command(
    epilog=_examples("clipfit cancel", "clipfit cancel 1234 --yes", "clipfit cancel method=coop --yes"),
)(cancel)
app.command(
    epilog=_examples(
        "clipfit push dataset=dtd,method=clipfit,seed=1 ORG/NAME --licence cc-by-4.0 --dry-run my-adapter",
        "clipfit push dataset=dtd,method=clipfit,seed=1 ORG/NAME --licence cc-by-4.0 --private",
    ),
)(push)
app.command(
    epilog=_examples(
        "clipfit inspect dataset=dtd,method=clipfit --plot depth.pdf",
        "clipfit inspect method=clipfit method=bitfit --images 0 --csv changes.csv",
    )
)(inspect)
app.add_typer(runs.app, name="runs")
app.add_typer(methods.app, name="methods")
app.add_typer(models.app, name="models")
app.add_typer(data.app, name="data")
