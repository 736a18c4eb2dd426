"""Every option that writes a file, tried on every kind of file that may stand there already.

    python -m tests.soak.outputs [--seed N]

A command replaces what it wrote itself and an empty file; all else stays byte for byte and the command ends with exit
code 2 and a message, before it does anything. A second half of the campaign has each output written twice.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.soak.campaign import faults_of
from tests.soak.forking import Command, Outcome, import_everything, leave, place_in_memory, run_forked
from tests.soak.worlds import TINY, adapters, copy_world, environment, make_world, picture, remove_world

RUN, OTHER = "{run}", "{other}"
"""Stand in a line for the folders of two trained runs."""
_SHORT = (*TINY, "--dataset", "own/pets")
_EVAL = ("eval", "--adapter", RUN, "--dataset", "own/pets")
_SIZES = ("sensitivity", "--method", "clipfit", "--factor", "beta", *_SHORT)

LINES: tuple[tuple[str, ...], ...] = (
    ("train", *_SHORT, "--csv"),
    ("eval", "--dataset", "own/pets", "--backbone", "clipfit-tiny", "--csv"),
    (*_EVAL, "--alpha", "0,1", "--csv"),
    (*_EVAL, "--alpha", "0,1", "--plot"),
    ("base2new", "--dataset", "dtd", *TINY, "--csv"),
    ("xdataset", "--source", "own/pets", "--target", "own/split", *TINY, "--csv"),
    ("compare", "--baseline", "bitfit", *_SHORT, "--csv"),
    ("robustness", "--shifts", "gaussian-noise", *_SHORT, "--csv"),
    ("robustness", "--shifts", "gaussian-noise", *_SHORT, "--plot"),
    (*_SIZES, "--csv"),
    (*_SIZES, "--plot"),
    ("reproduce", "builtin", "--dry-run", "--csv"),
    ("results", "--csv"),
    ("report", "--out"),
    ("plot", "tradeoff", "--csv", "shown.csv", "--out"),
    ("plot", "tradeoff", "--out", "shown.svg", "--csv"),
    ("inspect", RUN, "--csv"),
    ("inspect", RUN, "--plot"),
    ("predict", "odd/cat.png", "--adapter", RUN, "--csv"),
    ("published", "--csv"),
    ("jobs", "--csv"),
    ("cancel", "--csv"),
    ("runs", "list", "--csv"),
    ("runs", "show", RUN, "--csv"),
    ("runs", "diff", RUN, OTHER, "--csv"),
    ("runs", "verify", "--csv"),
    ("runs", "prune", "--csv"),
    ("runs", "execute", "plan.json", "--csv"),
    ("data", "get", "dtd", "--csv"),
    ("data", "check", "dtd", "--csv"),
    ("data", "list", "--csv"),
    ("data", "shifts", "--csv"),
    ("data", "show", "dtd", "--csv"),
    ("data", "cache", "--csv"),
    ("models", "list", "--csv"),
    ("models", "kinds", "--csv"),
    ("models", "show", "clipfit-tiny", "--csv"),
    ("methods", "list", "--csv"),
    ("methods", "show", "clipfit", "--csv"),
)
"""Lines that end in the option whose file is tried."""

ENDINGS = {"--csv": (".csv",), "--plot": (".png", ".pdf", ".svg"), "--out": (".html", ".md", ".tex", ".csv", ".json")}
PLOTS = ENDINGS["--plot"]


def endings(line: Sequence[str]) -> tuple[str, ...]:
    """Return how the files end that the last option of a line writes."""
    return PLOTS if line[0] == "plot" and line[-1] == "--out" else ENDINGS[line[-1]]


def foreign(world: Path) -> dict[str, bytes]:
    """Return what no option may replace: a name, and the bytes of the file."""
    run = adapters(world)[0]
    return {
        "record": (run / "record.json").read_bytes(),
        "adapter": (run / "adapter_model.safetensors").read_bytes(),
        "steps": (run / "steps.csv").read_bytes(),
        "test": next((run / "tests").glob("*.json")).read_bytes(),
        "checkpoint": (world / "weights.pt").read_bytes(),
        "split": (world / "data/dtd/split_zhou_DescribableTextures.json").read_bytes(),
        "png": picture(1, "png"),
        "jpeg": picture(1, "jpg"),
        "list": (world / "lists/pets.csv").read_bytes(),
        "table": b"name,kind,born\nrex,dog,2019\n",
        "page": b"<!DOCTYPE html>\n<html><title>My page</title></html>\n",
        "svg": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>\n',
        "pdf": b"%PDF-1.4\n%nothing in it\n",
        "notes": b"# Notes\n\nMine.\n",
        "tex": b"\\documentclass{article}\n",
        "json": b'{"schema_version": 2, "title": "mine"}\n',
        "bytes": bytes(range(256)),
        "newline": b"\n",
    }


def filled(line: Sequence[str], world: Path) -> tuple[str, ...]:
    """Return a line with the runs of a world in it."""
    runs = [str(path.relative_to(world)) for path in adapters(world)]
    own = [run for run in runs if "own-pets" in run]
    places = {RUN: next(run for run in own if "clipfit" in run), OTHER: next(run for run in own if "bitfit" in run)}
    return tuple(places.get(word, word) for word in line)


def run(world: Path, words: Sequence[str]) -> Outcome:
    """Run a command in a world."""
    return run_forked(Command(tuple(words), world, environment(world)), patience_s=120)


def tried(world: Path, line: Sequence[str], files: Mapping[str, bytes], place: Path) -> list[str]:
    """Return what is wrong where a command is to write over files that are none of its kind.

    Args:
        world: Where it runs.
        line: Ends in the option.
        files: Name and bytes of what stands there.
        place: Folder in the world for them.
    """
    wrong = []
    before = sorted(map(str, (world / "runs").rglob("*")))
    for name, content in files.items():
        for ending in endings(line):
            path = place / f"{name}{ending}"
            path.write_bytes(content)
            words = (*filled(line, world), str(path.relative_to(world)))
            outcome = run(world, words)
            wrong += [f"{' '.join(words)}: {fault}" for fault in faults_of(Command(words, world), outcome)]
            if path.read_bytes() != content:
                wrong.append(f"{' '.join(words)}: replaced {name}")
            if outcome.code != 2 or not outcome.stderr.startswith("error: ") or path.name not in outcome.stderr:
                wrong.append(f"{' '.join(words)}: exit {outcome.code}, {outcome.stderr[-300:]!r}")
            path.unlink()
    if sorted(map(str, (world / "runs").rglob("*"))) != before:
        wrong.append(f"{' '.join(line)}: work was done before a file was refused")
    return wrong


def odd_places(world: Path, line: Sequence[str], place: Path) -> list[str]:
    """Return what is wrong where a folder, a read-only file, or a link in a circle is to be written."""
    wrong = []
    for ending in endings(line):
        folder, kept, loop = (place / f"{name}{ending}" for name in ("folder", "kept", "loop"))
        folder.mkdir()
        kept.touch()
        kept.chmod(0o444)
        loop.symlink_to(loop.name)
        for path in (folder, kept, loop):
            words = (*filled(line, world), str(path.relative_to(world)))
            outcome = run(world, words)
            if outcome.code not in (2, 3) or "Traceback" in outcome.stderr:
                wrong.append(f"{' '.join(words)}: exit {outcome.code}, {outcome.stderr[-300:]!r}")
        if not (folder.is_dir() and kept.is_file() and loop.is_symlink()):
            wrong.append(f"{' '.join(line)}: replaced a folder, a read-only file or a link")
        folder.rmdir()
        kept.unlink()
        loop.unlink()
    return wrong


def written_twice(world: Path, line: Sequence[str], place: Path) -> list[str]:
    """Return what is wrong where a command writes into an empty file, and then over what it wrote."""
    wrong = []
    for ending in endings(line):
        path = place / f"mine{ending}"
        path.touch()
        words = (*filled(line, world), str(path.relative_to(world)))
        outcomes = [run(world, words) for _ in range(2)]
        for outcome in outcomes:
            wrong += [f"{' '.join(words)}: {fault}" for fault in faults_of(Command(words, world), outcome)]
            if "not written by clipfit" in outcome.stderr or (not outcome.code and not path.stat().st_size):
                wrong.append(f"{' '.join(words)}: exit {outcome.code}, {outcome.stderr[-300:]!r}")
        path.unlink()
    return wrong


def main(arguments: list[str] | None = None) -> int:
    """Try all, and print what is wrong; the exit code says whether anything is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="of the order of the lines")
    options = parser.parse_args(arguments)
    import_everything()
    base = place_in_memory()
    wrong: list[str] = []
    try:
        make_world(base / "base")
        plan = run(base / "base", ("train", *_SHORT, "--dry-run", "--json"))
        (base / "base/plan.json").write_text(plan.stdout)
        shuffled = random.Random(options.seed).sample(LINES, len(LINES))
        for line in shuffled:
            world = copy_world(base / "base", base / "copy")
            place = world / "outputs"
            place.mkdir()
            wrong += tried(world, line, foreign(world), place)
            wrong += odd_places(world, line, place)
            wrong += written_twice(world, line, place)
            remove_world(world)
    finally:
        shutil.rmtree(base / "base", ignore_errors=True)
        leave(base)
    tries = sum(len(endings(line)) for line in LINES)
    print(*wrong, sep="\n", end="\n" * bool(wrong))
    print(f"outputs: {len(LINES)} options, {tries} forms; {len(wrong)} with something wrong")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
