"""A random campaign of reading: every number that a command shows of a runs folder is that of the tests it says.

    python -m tests.soak.reading --seed 1 --folders 60
    python -m tests.soak.reading --seed 1 --only 17

A folder is filled by commands of protocols and then strewn with what could be mistaken for their tests: evaluations
with other class names, prompts, images and precisions under the same names, along alpha and on shifted images; copies
of runs; it may lack a seed. What each command planned is known from a folder
that it filled alone, and what a test says is computed from its predictions, see `tests.soak.truth`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from PIL import Image

from tests.soak.consumers import Check, Row, csv_rows, html_grids, latex_grids, markdown_grids
from tests.soak.forking import import_everything, leave, place_in_memory
from tests.soak.truth import Answer, Ledger, Plan, Source, Spec, read_plan

CLASSES = {
    "near/zoo": ("ant", "bee", "cow", "dog"),
    "far/zoo": ("ant", "bee", "cow", "dog"),
    "trees/zoo": ("elm", "fir", "oak", "yew"),
    "near/farm": ("corn", "oats", "rye", "wheat"),
    "far/farm": ("barley", "corn", "millet", "rye", "wheat"),
}
"""Folder of images -> its classes; two folders of a name are two data sets of that name."""
IMAGES = 14
NAMES = ("a small insect", "honey bee", "red cow", "wolf")
TEMPLATE = "a drawing of a {}."
QUICK = ("--backbone", "clipfit-tiny", "--shots", "1", "--epochs", "1", "--lr", "0.05")
PLOTS = ("shots", "tradeoff", "base-new", "calibration", "classes", "confusion")
PAGE_EVERY = 6
"""Of so many folders one is shown as a page, whose figures take seconds to draw."""


def make_images(base: Path) -> None:
    """Make the folders of images, and a file of class names."""
    for folder, classes in CLASSES.items():
        for name in classes:
            rng = random.Random(f"{folder}/{name}")
            colour = [rng.randrange(70, 180) for _ in range(3)]
            for index in range(IMAGES):
                pixels = bytes(min(255, max(0, int(rng.gauss(value, 60)))) for _ in range(24 * 24) for value in colour)
                path = base / folder / name / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.frombytes("RGB", (24, 24), pixels).save(path)
    (base / "names.txt").write_text("\n".join(NAMES) + "\n")


def specs(base: Path) -> list[Spec]:
    """Return the commands that fill folders."""
    names, seeds = str(base / "names.txt"), ("--seeds", "1,2,3")

    def spec(protocol: str, *words: str) -> Spec:
        typed = dict(itertools.pairwise(words))
        words = tuple(_full(base, words))
        sources = {}
        for option, text in itertools.pairwise(words):
            if option in ("--dataset", "--source", "--target", "--shift"):
                name, _, folder = text.partition("=")
                is_target = option in ("--target", "--shift")
                given = typed.get("--class-names", "")
                sources[name] = Source(folder, given, typed.get("--template", ""), is_target)
        return Spec(protocol=protocol, words=words, sources=sources)

    def methods(*chosen: str) -> tuple[str, ...]:
        return tuple(word for name in chosen for word in ("--method", name))

    zoo, farm = ("--dataset", "near/zoo"), ("--dataset", "near/farm")
    b2n, few, across = "base2new", "few-shot", "xdataset"
    return [
        spec(few, "train", *zoo, *methods("clipfit", "bitfit", "tip-adapter", "zero-shot"), *seeds, *QUICK),
        spec(few, "train", *zoo, *methods("clipfit"), "--subset", "base", *seeds, *QUICK),
        spec(few, "train", *zoo, *methods("clipfit"), "--class-names", names, *seeds, *QUICK),
        spec(few, "train", "--dataset", "trees/zoo", *methods("clipfit", "tip-adapter"), *seeds, *QUICK),
        spec(few, "train", "--dataset", "far/zoo", *methods("clipfit"), *seeds, *QUICK),
        spec(b2n, "base2new", *zoo, *farm, *methods("clipfit", "linear-probe"), *seeds, *QUICK),
        spec(b2n, "base2new", *zoo, *methods("clipfit", "zero-shot"), "--template", TEMPLATE, *seeds, *QUICK),
        spec(b2n, "compare", *zoo, *methods("clipfit"), "--baseline", "bitfit", *seeds, *QUICK),
        spec(b2n, "compare", "--dataset", "far/zoo", *methods("clipfit"), "--seeds", "1,2", *QUICK),
        spec(b2n, "base2new", *zoo, *methods("clipfit"), "--class-names", names, *seeds, *QUICK),
        spec(across, "xdataset", "--source", "near/zoo", "--target", "near/farm", *methods("clipfit"), *seeds, *QUICK),
        spec(across, "xdataset", "--source", "near/zoo", "--target", "far/farm", *methods("clipfit"), *seeds, *QUICK),
        spec(
            *(across, "compare", "--protocol", across, "--source", "near/zoo", "--target", "near/farm"),
            *("--shift", "art=far/zoo", *methods("clipfit"), "--seeds", "1,2", *QUICK),
        ),
        spec(
            *(few, "robustness", *zoo, *methods("clipfit"), "--baseline", "bitfit", "--shifts", "blur,noise"),
            *("--severity", "4", "--shift", "art=far/zoo", *seeds, *QUICK),
        ),
        spec(
            b2n,
            "sensitivity",
            *zoo,
            *methods("clipfit"),
            "--factor",
            "beta",
            "--shifts",
            "blur",
            "--seeds",
            "1",
            *QUICK,
        ),
    ]


def _full(base: Path, words: Sequence[str]) -> list[str]:
    """Return words with names and whole paths of data sets."""
    found = list(words)
    for place, word in enumerate(found):
        name, _, folder = word.rpartition("=")
        if folder in CLASSES:
            found[place] = f"{name or folder.rpartition('/')[2]}={base / folder}"
    return found


STREWN: dict[str, tuple[str, ...]] = {
    "class names": ("--dataset", "near/zoo", "--class-names", "names.txt"),
    "a namesake": ("--dataset", "trees/zoo"),
    "other pixels": ("--dataset", "far/zoo"),
    "another template": ("--dataset", "near/zoo", "--template", "the {}!"),
    "bf16": ("--dataset", "near/zoo", "--precision", "bf16"),
    "alpha": ("--dataset", "near/zoo", "--alpha", "0,0.5"),
    "other data": ("--dataset", "near/farm"),
    "a namesake of the other": ("--dataset", "far/farm"),
    "base": ("--dataset", "near/zoo", "--subset", "base"),
    "new": ("--dataset", "near/zoo", "--subset", "new"),
    "base of pixels": ("--dataset", "far/zoo", "--subset", "base"),
    "new of pixels": ("--dataset", "far/zoo", "--subset", "new"),
    "new of class names": ("--dataset", "near/zoo", "--class-names", "names.txt", "--subset", "new"),
}
"""What `clipfit eval` is asked, of a run or of the model as it is."""


@dataclass(frozen=True)
class Pool:
    """What folders are made of: the folders that commands have filled, each alone.

    Attributes:
        base: Where images lie.
        plans: Of the commands, with the folder of each.
        zero_shot: See `Ledger`.
        strewn: Run and kind -> the files that an evaluation added; filled as it goes.
    """

    base: Path
    plans: list[tuple[Plan, Path]]
    zero_shot: Mapping[tuple[Source, str, str], Answer]
    strewn: dict[tuple[str, str], dict[str, bytes]]


def clipfit(*words: str) -> tuple[int, str, str]:
    """Run a command in this process; return its exit code, stdout and stderr."""
    from typer.testing import CliRunner

    from clipfit_cli.cli.app import app

    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})
    if result.exit_code not in (0, 2, 3):
        raise RuntimeError(f"{' '.join(words)}: exit code {result.exit_code}, {result.exception!r}\n{result.stderr}")
    return result.exit_code, result.stdout, result.stderr


def _fill(task: tuple[Path, Spec, Path]) -> Plan:
    base, spec, runs_dir = task
    _must(*spec.words, "--runs-dir", str(runs_dir), "--data-root", str(base))
    return read_plan(spec, runs_dir)


def _must(*words: str) -> str:
    code, stdout, stderr = clipfit(*words)
    if code:
        raise RuntimeError(f"{' '.join(words)}: exit code {code}\n{stderr}")
    return stdout


def make_pool(base: Path, mapped: Callable[..., Any]) -> Pool:
    """Fill a folder by each command."""
    make_images(base)
    every = specs(base)
    evaluations = [
        Spec(protocol="eval", words=("eval", *words, "--backbone", "clipfit-tiny"), sources=sources)
        for sources, words in _as_it_is(every)
    ]
    folders = [base / "pool" / str(number) for number in range(len(every) + len(evaluations))]
    tasks = [(base, spec, folder) for spec, folder in zip([*every, *evaluations], folders, strict=True)]
    plans = list(zip(mapped(_fill, tasks), folders, strict=True))
    zero_shot = {
        (plan.spec.sources[question.dataset], question.subset, question.transform): answer
        for plan, _ in plans
        for key, answers in plan.answers.items()
        if not plan.runs[key].is_trained
        for question, answer in answers.items()
    }
    return Pool(base, plans[: len(every)], zero_shot, {})


def _as_it_is(every: Sequence[Spec]) -> list[tuple[dict[str, Source], tuple[str, ...]]]:
    """Return what the model as it is must be asked so that its tests of each source are known."""
    found = {}
    for spec in every:
        for name, source in spec.sources.items():
            for subset in ("all", "base", "new"):
                words = ["--dataset", f"{name}={source.folder}", "--subset", subset]
                words += ["--class-names", source.class_names] if source.class_names else []
                words += ["--template", source.template] if source.template else []
                if not source.is_target:
                    found[(source, subset)] = ({name: source}, tuple(words))
    return list(found.values())


class Folder:
    """A runs folder that is filled, strewn, and read by everything that reads."""

    def __init__(self, pool: Pool, seed: int, index: int, runs_dir: Path) -> None:
        """Take a folder that is not there yet."""
        self._pool, self._index, self._dir = pool, index, runs_dir
        self._rng = random.Random(f"reading/{seed}/{index}")
        self.story: list[str] = []
        self.ledger = Ledger([], pool.zero_shot)
        self.check = Check(self.ledger, runs_dir, f"folder {index} of seed {seed}")

    def fill(self) -> None:
        """Fill and strew it."""
        rng, plans = self._rng, list(self._pool.plans)
        rng.shuffle(plans)
        for plan, folder in plans[: rng.choice((1, 2, 3, 3, 4, 6))]:
            shutil.copytree(folder, self._dir, dirs_exist_ok=True)
            self._add(plan)
        if rng.random() < 0.3:
            self._lose_a_seed()
        late = [plan for plan, _ in plans if plan not in self.ledger.plans and len(plan.spec.sources) < 3]
        for _ in range(rng.randrange(2, 7)):
            self._strew()
        if late and rng.random() < 0.2 and not self.ledger.gone:
            self._run(rng.choice(late))
        if rng.random() < 0.3:
            self._copy_a_run()

    def _add(self, plan: Plan) -> None:
        self.ledger.plans.append(plan)
        self.story.append(" ".join(plan.spec.words).replace(f"{self._pool.base}/", ""))

    def _trained(self) -> list[tuple[str, str]]:
        return sorted((run.folder, key) for key, run in self.ledger.runs.items() if run.is_trained)

    def _lose_a_seed(self) -> None:
        folder, key = self._rng.choice(self._trained())
        shutil.rmtree(self._dir / folder)
        self.ledger.gone.add(key)
        del self.ledger.runs[key]
        self.story.append(f"{folder} is gone")

    def _copy_a_run(self) -> None:
        folder, _ = self._rng.choice(self._trained())
        shutil.copytree(self._dir / folder, self._dir / "elsewhere" / folder.partition("/")[2])
        self.story.append(f"{folder} lies in elsewhere, too")

    def _strew(self) -> None:
        """Have a run, or the model as it is, evaluated on something else."""
        kind = self._rng.choice(list(STREWN))
        trained = [("", ""), *self._trained(), *self._trained()]
        folder, key = self._rng.choice(trained)
        words = [str(self._pool.base / word) if word == "names.txt" else word for word in STREWN[kind]]
        words = _full(self._pool.base, words)
        if not folder and "--alpha" in words:
            return
        words += ["--adapter", str(self._dir / folder)] if folder else ["--backbone", "clipfit-tiny"]
        self.story.append(f"eval of {folder or 'the model'}: {kind}")
        if (key, kind) not in self._pool.strewn:
            before = self._files()
            clipfit("eval", *words, "--runs-dir", str(self._dir))
            now = self._files()
            added = {path: now[path] for path in now.keys() - before.keys()} if folder else {}
            self._pool.strewn[key, kind] = {path: (self._dir / path).read_bytes() for path in added}
        if not folder:  # which may have been evaluated on more, elsewhere
            clipfit("eval", *words, "--runs-dir", str(self._dir))
        for path, content in self._pool.strewn[key, kind].items():
            (self._dir / path).parent.mkdir(parents=True, exist_ok=True)
            (self._dir / path).write_bytes(content)

    def _run(self, plan: Plan) -> None:
        """Run a command here, which takes what is there already."""
        _must(*plan.spec.words, "--runs-dir", str(self._dir), "--data-root", str(self._pool.base))
        self._add(plan)
        self.story[-1] = f"run here: {self.story[-1]}"
        del self.ledger.runs

    def _files(self) -> dict[str, int]:
        return {
            str(path.relative_to(self._dir)): path.stat().st_mtime_ns
            for path in self._dir.rglob("*")
            if path.is_file() and ".locks" not in path.parts
        }

    def read(self) -> None:
        """Read it by everything that reads."""
        tables = self._report()
        self._plots(tables)
        self._rows()
        self._push()
        self._again()

    def _report(self) -> list[Row]:
        code, stdout, stderr = clipfit("report", "--format", "json", *self._here)
        if code:
            self.check.say("report json", stderr)
            return []
        sections = json.loads(stdout)["sections"]
        tables = [self.check.table("report json", section["rows"]) for section in sections]
        self.check.complete("report json", tables)
        for section, rows in zip(sections, tables, strict=True):
            for figure in section["figures"]:
                self.check.figure(f"report json, figure {figure['plot']}", figure["rows"], rows)
        whole = [row for section in sections for row in section["rows"]]
        shown = csv_rows(_must("report", "--format", "csv", *self._here))
        for row, other in zip(shown, whole, strict=True):
            for name, value in other.items():
                if name.endswith("_pct") and not isinstance(value, list):
                    self.check.number("report csv", f"{name} of {row['dataset']}, {row['method']}", row[name], value)
        for form, grids in (("markdown", markdown_grids), ("latex", latex_grids)):
            self.check.printed(f"report {form}", whole, grids(_must("report", "--format", form, *self._here)))
        if self._index % PAGE_EVERY == 0:
            page = self._dir.with_suffix(".html")
            _must("report", "--out", str(page), *self._here)
            self.check.printed("report html", whole, html_grids(page.read_text()))
        return [row for rows in tables for row in rows]

    @property
    def _here(self) -> tuple[str, ...]:
        return "--runs-dir", str(self._dir)

    def _plots(self, tables: Sequence[Row]) -> None:
        for name in self._rng.sample(PLOTS, 3):
            out, each = str(self._dir.with_suffix(".svg")), "--per-dataset"
            code, stdout, _ = clipfit("plot", name, "--out", out, each, "--csv", "-", *self._here)
            if code == 0:
                self.check.figure(f"plot {name}", csv_rows(stdout), tables)

    def _rows(self) -> None:
        import clipfit_cli

        rows = json.loads(_must("results", "--json", "--metric", "accuracy,macro-f1", *self._here))["rows"]
        self.check.every_test("results", rows)
        self.check.differences_from_plan("results", rows)
        frame: Any = clipfit_cli.results(self._dir)
        records = frame.where(frame.notna(), None).to_dict("records")
        self.check.every_test("clipfit_cli.results", records)
        self.check.differences_from_plan("clipfit_cli.results", records)
        self.check.listed("runs list", json.loads(_must("runs", "list", "--json", *self._here))["rows"])

    def _push(self) -> None:
        folder, _ = self._rng.choice(self._trained())
        if (self._dir / folder / "adapter_model.safetensors").exists():
            out = self._dir.with_suffix(".pushed")
            shutil.rmtree(out, ignore_errors=True)
            _must("push", str(self._dir / folder), "org/name", "--dry-run", str(out), *self._here)
            self.check.pushed("push", out, self._dir / folder)

    def _again(self) -> None:
        """Have commands print the table of what is finished, which makes no test."""
        if self.ledger.gone:
            return
        for plan in self._rng.sample(self.ledger.plans, min(2, len(self.ledger.plans))):
            before = self._files()
            root = ("--data-root", str(self._pool.base))
            rows = json.loads(_must(*plan.spec.words, "--json", *root, *self._here))["rows"]
            if made := [path for path in self._files().keys() - before.keys() if "/requests/" not in path]:
                self.check.say(plan.spec.words[0], f"made again what is finished: {sorted(made)}")
            self.check.table(plan.spec.words[0], rows)


def _share(pool: Pool, seed: int, indices: Sequence[int], place: Path) -> tuple[list[str], Counter[str], int]:
    """Check folders; return the differences, how many numbers of each consumer were compared, and of how many."""
    differences: list[str] = []
    counts: Counter[str] = Counter()
    for index in indices:
        runs_dir = place / f"runs-{index}"
        folder = Folder(pool, seed, index, runs_dir)
        folder.fill()
        folder.read()
        shutil.rmtree(runs_dir)
        counts.update(folder.check.counts)
        differences += folder.check.differences
        if folder.check.differences:
            told = "\n  ".join([*folder.story, *folder.check.differences[:20]])
            print(f"FOUND in folder {index} of seed {seed}:\n  {told}", flush=True)
    return differences, counts, len(indices)


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign and return 1 if any number is another than it says, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folders", type=int, default=60)
    parser.add_argument("--only", type=int, help="check the folder of this index alone")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    began = time.monotonic()
    import_everything()
    place = place_in_memory()
    try:
        indices = list(range(options.folders)) if options.only is None else [options.only]
        workers = min(options.workers, len(indices))
        with get_context("fork").Pool(options.workers) as processes:
            pool = make_pool(place, lambda function, tasks: processes.map(function, tasks, chunksize=1))
        made = time.monotonic() - began
        shares = [(pool, options.seed, indices[worker::workers], place) for worker in range(workers)]
        with get_context("fork").Pool(workers) as processes:
            found = processes.starmap(_share, shares)
    finally:
        leave(place)
    differences = [line for lines, _, _ in found for line in lines]
    counts = sum((count for _, count, _ in found), Counter[str]())
    consumers = {name.partition(",")[0] for name in counts}
    print(
        f"reading: {len(indices)} folders of seed {options.seed}, {counts.total()} numbers of {len(consumers)} "
        f"consumers compared in {time.monotonic() - began:.0f} s ({made:.0f} s of it for the pool); "
        f"{len(differences)} differences",
        flush=True,
    )
    return 1 if differences or not counts else 0


if __name__ == "__main__":
    sys.exit(main())
