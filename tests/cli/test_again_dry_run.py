"""Whatever was asked, and of whatever kind of images: the command that is printed for it has nothing to do."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from clipfit_cli.cli.app import app
from clipfit_cli.protocols.again import commands_of_runs
from clipfit_cli.results.select import stored_runs
from clipfit_cli.testing import build_small_clip
from tests.data.own_images import write_folder
from tests.data.test_own_readers import KINDS

pytestmark = pytest.mark.slow  # a minute or two in all

QUICK = ("--shots=1", "--epochs=1", "--quiet")
NAMES = ("a striped horse", "a fruit", "an insect", "a car", "a wall")

CASES: dict[str, tuple[str, ...]] = {
    "train": ("train D",),
    "train the built-in model": ("train D --backbone clipfit-tiny",),
    "train of several methods": ("train D --method clipfit,bitfit,tip-adapter,zero-shot",),
    "train on base classes": ("train D --subset base",),
    "train --tune": ("train D --method tip-adapter,linear-probe --tune",),
    "train with settings": (
        "train D --set beta=2 --set lr=0.001 --set decay=none",
        "train D --method bitfit --set weight_decay=0.1",
    ),
    "train with class names": ("train D --class-names N",),
    "train with a template": ("train D --template 'the {}, drawn'",),
    "train with templates": ("train D --templates T",),
    "train in bf16": ("train D --precision bf16",),
    "train on all images": ("train D --shots 2,all",),
    "val-shots": ("train D --method lp-plus-plus --val-shots 1",),
    "base2new": ("base2new D",),
    "base2new with class names and a template": ("base2new D --class-names N --template 'no {}'",),
    "compare": ("compare D --baseline bitfit",),
    "base first": ("train D --subset base", "base2new D", "compare D --baseline bitfit"),
    "base last": ("compare D --baseline bitfit", "base2new D", "train D --subset base"),
    "base with class names": ("train D --subset base --class-names N", "base2new D --class-names N"),
    "two data sets": ("base2new D --dataset E", "train D --dataset E"),
    "xdataset": ("xdataset --source P --target E",),
    "xdataset to several, one of all images": ("xdataset --source P --target E --target third=F",),
    "xdataset with a template": ("xdataset --source P --target E --template 'x {}'",),
    "compare across": ("compare --protocol xdataset --source P --target E --shift art=F --baseline bitfit",),
    "across to a copy of the source": ("xdataset --source P --target copy=C",),
    "few-shot, then across": ("train D", "xdataset --source P --target E"),
    "robustness": ("robustness D --shifts blur,noise --severity 2,4",),
    "robustness on images of one's own": (
        "robustness D --shifts blur --severity 3 --shift art=F --baseline zero-shot",
    ),
    "robustness after base2new": ("base2new D", "robustness D --shifts blur --severity 3 --baseline zero-shot"),
    "sensitivity": ("sensitivity D --factor beta --shifts blur --severity 3 --seeds 1",),
    "eval of the model": ("eval D", "eval D --subset new --class-names N"),
    "eval along alpha": ("train D --subset base", "eval D --adapter A --alpha 0,0.5,1 --subset new"),
    "eval on other images": (
        "train D",
        "eval --dataset E --adapter A",
        "eval --dataset E --adapter A --template 'q {}'",
    ),
    "without damaged images": ("train D --skip-damaged",),
}
"""Commands of one folder of runs; D names the data set, P its place, C a copy of it, E and F other folders, N a file of
class names, T one of templates, A the first run.
"""
SOURCES: dict[str, tuple[str, ...]] = {
    "few-shot": ("train D",),
    "base2new": ("base2new D --class-names N",),
    "across": ("xdataset --source P --target E",),
    "shifted": ("robustness D --shifts blur --severity 3 --baseline zero-shot",),
}


def invoke(words: Sequence[str]) -> str:
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "300"})
    assert result.exit_code == 0, (words, result.output)
    return result.stdout


class Place:
    """Where a case is run."""

    def __init__(self, root: Path, dataset: str, model: Sequence[str], seeds: str = "1,2") -> None:
        self.root, self.runs = root, ["--runs-dir", str(root / "runs")]
        self.model, self.seeds = model, ["--seeds", seeds]
        names, templates = root / "names.json", root / "templates.txt"
        names.write_text(json.dumps(NAMES), encoding="utf-8")
        templates.write_text("a {} in a field.\nsome {}\n", encoding="utf-8")
        others = {
            letter: str(write_folder(root / name)) for letter, name in (("C", "copy"), ("E", "other"), ("F", "third"))
        }
        for letter, number in (("E", 1), ("F", 2)):  # other images than those of the copy
            for path in Path(others[letter]).rglob(f"*{number}.*"):
                path.unlink()
        self.words = {"P": dataset, "N": str(names), "T": str(templates), **others}

    def run(self, line: str) -> None:
        words = []
        for word in shlex.split(line):
            if word == "A":
                words += [str(next(one.folder for one in stored_runs(self.root / "runs") if one.run.config.stages))]
            elif word == "D":
                words += ["--dataset", self.words["P"]]
            else:
                name, _, letter = word.rpartition("=")
                words.append(
                    f"{name}={self.words[letter]}" if name and letter in self.words else self.words.get(word, word)
                )
        usual = [*QUICK, *(() if "--seeds" in words else self.seeds)] if words[0] != "eval" else ["--quiet"]
        usual = [word for word in usual if "--shots" not in words or word != "--shots=1"]
        model = () if {"A", "--backbone"} & set(line.split()) else self.model
        invoke([*words, *usual, *model, *self.runs])

    def has_nothing_to_do(self, line: str) -> None:
        """Run what a line writes first, and the command of it with ``--dry-run``."""
        *before, command = line.split(" && ")
        for one in before:
            *words, place = one.split(" > ")
            ((_, _, *texts),) = [shlex.split(" > ".join(words))]
            (self.root / "here").mkdir(exist_ok=True)
            (self.root / "here" / place).write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
            command = command.replace(f" {place}", f" {self.root / 'here' / place}")
        told = invoke([*shlex.split(command)[1:], *self.runs, "--dry-run", "--quiet"])
        assert " 0 to do" in told, (line, told)

    def commands(self) -> list[str]:
        """Return every command that is printed of the runs: by `report` and of all runs by `runs show`."""
        runs = stored_runs(self.root / "runs")
        found = [line for one in runs for line in commands_of_runs([one])]
        found += commands_of_runs(runs)
        rows = csv.DictReader(io.StringIO(invoke(["report", "--format", "csv", "--out", "-", "--quiet", *self.runs])))
        found += [line for row in rows for line in row["command"].splitlines()]
        return list(dict.fromkeys(found))


def every_command_has_nothing_to_do(place: Place) -> None:
    commands = place.commands()
    assert commands
    for line in commands:
        place.has_nothing_to_do(line)


@pytest.fixture
def model(small_architecture: str, tmp_path: Path) -> Sequence[str]:
    """The options that name a small model."""
    weights = tmp_path / "small.pt"
    torch.save(build_small_clip(seed=3).state_dict(), weights)
    return ("--backbone", small_architecture, "--pretrained", str(weights))


@pytest.mark.parametrize("lines", CASES.values(), ids=CASES.keys())
def test_what_was_asked_has_nothing_to_do(lines: tuple[str, ...], model: Sequence[str], tmp_path: Path) -> None:
    place = Place(tmp_path, str(write_folder(tmp_path / "mine")), model)
    for line in lines:
        place.run(line)
    every_command_has_nothing_to_do(place)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "folder"])
def test_images_of_every_kind_have_nothing_to_do(kind: str, model: Sequence[str], tmp_path: Path) -> None:
    place = Place(tmp_path, KINDS[kind](tmp_path), model, seeds="1")
    for lines in SOURCES.values():
        for line in lines:
            place.run(line)
    every_command_has_nothing_to_do(place)
