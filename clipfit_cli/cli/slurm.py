"""What a command does with its plan where Slurm makes the runs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from clipfit_cli.cli.progress import Reporter
from clipfit_cli.errors import ConfigError, shortened
from clipfit_cli.files import expanded

if TYPE_CHECKING:
    from clipfit_cli.cli.output_options import RunOptions
    from clipfit_cli.runs.prepare import Prepared
    from clipfit_cli.runs.setup import Setup
    from clipfit_cli.runs.slurm.resources import Resources
    from clipfit_cli.runs.sweep import SweepResult
    from clipfit_cli.runs.workspace import Workspace


@dataclass(frozen=True)
class Cluster:
    """Where the runs will be made.

    Attributes:
        resources: Of each job.
    """

    resources: Resources

    def there(self, setup: Setup) -> Setup:
        """Return what a job has to know: on a GPU where it has one, on the cores that it has.

        Raises:
            ConfigError: There is no such device.
        """
        device = ("cuda" if self.resources.gpus else "cpu") if setup.device == "auto" else setup.device
        if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", device):
            raise ConfigError(f"unknown device {shortened(device)!r}; expected auto, cpu, cuda or cuda:N")
        return replace(setup, device=device, threads=setup.threads or self.resources.cpus)


def find_cluster(output: RunOptions) -> Cluster | None:
    """Return where runs are handed to; None where they are made here.

    Raises:
        ConfigError: There is no Slurm here, or no submitit; or an option is not possible.
    """
    output.check_executor()
    if not output.on_slurm:
        return None
    if output.jobs is not None:
        raise ConfigError(
            "--jobs is for this machine; with --executor slurm --array-parallelism says how many jobs run"
        )
    if output.force:
        raise ConfigError(
            "--force does not go with --executor slurm, where the same command looks for what is finished; remove the "
            "runs first: clipfit runs prune"
        )
    from clipfit_cli.runs.slurm.calls import check_installed
    from clipfit_cli.runs.slurm.resources import default_files, resolve
    from clipfit_cli.runs.slurm.submit import check_submitit

    check_installed()
    check_submitit()
    return Cluster(resolve(output.resources(), default_files(expanded(output.runs_dir))))


def hand_over(
    cluster: Cluster,
    setup: Setup,
    prepared: Sequence[Prepared],
    workspace: Workspace,
    output: RunOptions,
    reporter: Reporter,
    result: SweepResult,
) -> None:
    """Submit what nobody is at, collect what is recorded, and say how the rest stands.

    Args:
        cluster: Where to.
        setup: What a job has to know.
        prepared: The runs.
        workspace: That they were prepared with.
        output: As typed.
        reporter: Told how it goes.
        result: Filled with what is finished and what failed for good.

    Raises:
        ClipfitError: See `Driver.step`.
    """
    from clipfit_cli.cli.slurm_job import work
    from clipfit_cli.runs.jobs import RETRIES
    from clipfit_cli.runs.plan_file import plan_of
    from clipfit_cli.runs.slurm.driver import Driver
    from clipfit_cli.runs.slurm.follow import in_words

    plan = plan_of(setup, prepared, workspace)
    retries = RETRIES if output.retries is None else output.retries
    driver = Driver(plan, prepared, cluster.resources, retries, work, reporter.note, result)
    shown: list[str] = []

    def show(counts: Counter[Any]) -> None:
        text = in_words(counts)
        reporter.step("on Slurm", counts["finished"], len(prepared), text.partition(": ")[2])
        if shown[-1:] != [text]:
            reporter.note(text)
            shown.append(text)

    if output.wait:
        try:
            driver.wait(show)
        except KeyboardInterrupt:
            reporter.note("the jobs go on; `clipfit cancel` ends them")
            raise
        return
    counts = driver.step()
    show(counts)
    if any(counts[state] for state in ("running", "pending", "ending")):
        reporter.note(
            "the same command goes on, --wait waits, `clipfit jobs` shows the jobs, `clipfit cancel` ends them"
        )
