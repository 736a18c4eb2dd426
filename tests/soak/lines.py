"""Random command lines over every command and option that there is: some right, some slightly off, some hostile."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.soak.forking import Command, Stdout
from tests.soak.worlds import adapters, environment

DATASETS = (
    "own/pets",
    "own/pets",
    "own/split",
    "own/domains/photo",
    "lists/pets.csv",
    "lists/pets.tsv",
    "lists/pets.jsonl",
    "wds:shards/train-{000..001}.tar",
    "wds:shards/*.tar",
    "mine=own/pets",
    "dtd",
    "eurosat",
    "fgvc_aircraft",
    "imagenet",
    "own/pets,dtd",
)
GOOD: dict[str, Sequence[str]] = {
    "--dataset": DATASETS,
    "--source": DATASETS[:-1],
    "--target": DATASETS,
    "--shift": ("own/domains/art", "own/domains/photo"),
    "--data-root": ("data", "data", "own"),
    "--class-names": ("words/names.txt", "words/names.json", "words/by_folder.json"),
    "--template": ("a photo of a {}.", "{}"),
    "--templates": ("words/templates.txt", "words/templates.json"),
    "--template-set": ("openai",),
    "--subset": ("all", "base", "new"),
    "--shots": ("1", "2", "1,2", "all"),
    "--seeds": ("1", "2", "1,2", "0"),
    "--seed": ("1", "0", "7"),
    "--method": (
        *("clipfit", "bitfit", "layer-norm", "full", "zero-shot", "clipfit:beta=2", "bitfit,layer-norm"),
        *(
            "clipfit:steps=1,views=2",
            "linear-probe",
            "tip-adapter",
            "tip-adapter-f",
            "features",
            "bitfit:crop_scale=none",
        ),
    ),
    "--baseline": ("bitfit", "clipfit:regulariser=none", "layer-norm", "clipfit:beta=8", "tip-adapter", "features"),
    "--protocol": ("base2new", "few-shot", "xdataset"),
    "--shifts": ("jpeg", "rotation,blur", "domain", "occlusion"),
    "--severity": ("1", "5", "2-3", "0"),
    "--plot": ("new.svg", "tmp/new.pdf", "words/names.txt"),
    "--set": (
        *("beta=2", "regulariser=none", "towers=image", "beta=nan", "lr=0.01", "steps=1", "optimiser=adamw"),
        *("crop_scale=0.5-1", "crop_scale=none", "crop_scale=1-0", "views=2", "batch-size=all", "templates=reference"),
    ),
    "--val-shots": ("1", "2", "16"),
    "--epochs": ("1", "2"),
    "--batch-size": ("1", "2", "32", "100000000000"),
    "--lr": ("0.001", "0", "1e30", "-1", "nan"),
    "--csv": ("out.csv", "-", "tmp/out.csv", "words/names.txt"),
    "--runs-dir": ("runs", "runs", "other-runs", "tmp"),
    "--image-cache": ("cache", "new-cache", "auto"),
    "--image-cache-size": ("1", "0.0001", "0"),
    "--keep-adapters": ("all", "none"),
    "--backbone": ("clipfit-tiny", "clipfit-tiny", "model", "exported"),
    "--pretrained": ("builtin", "model", "exported", "weights.pt", "model/open_clip_model.safetensors"),
    "--bn": ("eval", "train"),
    "--device": ("auto", "cpu", "cuda", "cuda:99", "mps"),
    "--precision": ("auto", "fp32", "bf16", "fp16"),
    "--classes": ("cat,dog", "words/names.txt", "words/names.json", "ant"),
    "--top": ("1", "3", "100000000000000000000"),
    "--out": ("new", "new", "exported", "model", "tmp"),
    "--imagenet-root": ("data/imagenet/images", "own"),
    "--executor": ("slurm", "slurm", "local"),
    "--time": ("10", "1:00:00", "1-0", "soon"),
    "--memory": ("4G", "lots"),
    "--gpus": ("0", "1"),
}
FOR_SLURM = (
    *("--wait", "--partition", "--account", "--time", "--gpus", "--cpus", "--memory"),
    *("--array-parallelism", "--runs-per-job"),
)
"""What is refused elsewhere; more often than now and then that would only hide what else a line has."""
PICTURES = ("own/pets/ant/0.png", "own/pets", "odd/cat.png", "own/split/test/Zebu/0.png", "odd/cat.jpg", "odd/bomb.png")
PLACES = (
    "/dev/full /dev/zero /dev/null /dev/stdin /dev/tty odd/fifo odd/loop odd/dangling odd/zero odd/here odd/empty "
    "odd/locked odd/shut odd/shut/inside odd/folder odd/deep.json odd/bytes.txt odd/cat.png odd/cat.jpg odd/bomb.png "
    "odd/nothing odd own runs cache model data exported lists shards shards/train-000.tar words / . .. ~ ~/x "
    "~nosuch/x ~root/x ../.. own/pets/ant/0.png lists/pets.csv model/open_clip_config.json "
    "data/dtd/split_zhou_DescribableTextures.json"
).split()
NUMBERS = (
    "-1 0 00 +1 1.5 1e5 1e308 1e999 -inf inf nan NaN 0x10 1_0 １ ١ True 2147483648 9223372036854775808 "
    "18446744073709551616 -36893488147419103232 1, ,1 1,1 1;2 1-3 1..3"
).split()
TEXTS = (
    "",
    " ",
    ",",
    ",,",
    "-",
    "--",
    "=",
    "a=",
    "=b",
    "a=b=c",
    "x" * 300,
    "x" * 5000,
    "a/" * 2500,
    "é" * 200,
    ",".join(f"class number {index}" for index in range(40)),
    "日本語",
    "\x1b[31mred\x1b[0m",
    "\x07",
    "\x9b31m",
    "a\nb",
    "a\tb",
    "a\rb",
    "\u202eabc",
    "\udcff\udcfe",
    "*",
    "[",
    "?",
    "{a,b}",
    "{}",
    "{} {}",
    "{0}",
    "{x",
    "a photo",
    "%s",
    "\\",
    "$HOME",
    "'",
    '"',
    "#",
    "null",
    "[]",
    "all",
    "auto",
    "textures-dim",
    "wds:",
    "wds:x-{0..99999999999}.tar",
    "wds:" + "{a,b}" * 24,
    "wds:" + "{" * 2000,
    "wds:odd/fifo",
    "wds:odd/empty",
    "wds:http://127.0.0.1:9/x.tar",
    "wds:pipe:touch tmp/pwned",
    "wds:own/pets",
    "hf:",
    "hf:no/such",
    "hf:a/b/c:d",
    "hf:../../x",
    "hf:own/pets",
    "hf-hub:no/such",
    "hf-hub:",
    "http://127.0.0.1:9/x",
    "file:///etc/passwd",
    "s3://x/y",
    "mine=",
    "=own/pets",
    "dtd=own/pets",
    "a/b=own/pets",
    "zero-shot=own/pets",
    "clipfit:",
    ":beta=2",
    "clipfit:beta",
    "clipfit:beta=" + "9" * 5000,
    "clipfit:nosuch=1",
    "nosuch",
    "9" * 5000,
    "-" + "9" * 400,
)
LENGTHY = ("--epochs",)
"""Options whose large values are work that was asked for, not a hang."""
COMPILES = "--compile"
TRAINING = ("train", "base2new", "xdataset", "compare", "robustness", "sensitivity")
WEIGHTS = {"train": 5, "eval": 5, "predict": 5, "export": 3, "compare": 3, "base2new": 2, "xdataset": 2}
"""Command -> how often it is taken; the others once."""
WORLDS: tuple[dict[str, str | None], ...] = (
    {"HOME": None},
    {"HOME": "/nonexistent"},
    {"HOME": "odd/shut"},
    {"HOME": "odd/locked"},
    {"HOME": ""},
    {"TMPDIR": "odd/shut"},
    {"COLUMNS": "0"},
    {"COLUMNS": "1"},
    {"COLUMNS": "-5"},
    {"COLUMNS": "x"},
    {"COLUMNS": "100000"},
    {"LC_ALL": "C", "LANG": None},
    {"TERM": "dumb"},
    {"NO_COLOR": "1"},
    {"CLIPFIT_DATA": ""},
    {"CLIPFIT_DATA": "odd/shut"},
    {"CLIPFIT_DATA": "x" * 300},
    {"CLIPFIT_DATA": "~nosuch/x"},
    {"CLIPFIT_RUNS": ""},
    {"CLIPFIT_RUNS": "odd/locked"},
    {"CLIPFIT_IMAGE_CACHE": "odd/shut"},
    {"CLIPFIT_IMAGE_CACHE": ""},
    {"CLIPFIT_OFFLINE": "1"},
    {"CLIPFIT_OFFLINE": "x"},
    {"XDG_CACHE_HOME": "odd/shut"},
    {"XDG_DATA_HOME": "relative"},
)


@dataclass(frozen=True)
class Kind:
    """A command of the tool.

    Attributes:
        path: Its words.
        flags: Options without a value.
        options: Those with one, and whether it is required.
        arguments: Names of what stands without an option, and whether several may.
    """

    path: tuple[str, ...]
    flags: tuple[str, ...]
    options: dict[str, bool]
    arguments: dict[str, bool]


def kinds() -> list[Kind]:
    """Return every command, as Typer knows it."""
    from typer.main import get_command

    from clipfit_cli.cli.app import app

    def walk(command: Any, path: tuple[str, ...]) -> Iterator[Kind]:
        for name, one in getattr(command, "commands", {}).items():
            yield from walk(one, (*path, name))
        if not getattr(command, "commands", {}):
            options = [one for one in command.params if one.param_type_name == "option"]
            flags = tuple(one.opts[0] for one in options if one.is_flag and one.opts[0] != "--help")
            valued = {one.opts[0]: bool(one.required) for one in options if not one.is_flag}
            others = [one for one in command.params if one.param_type_name != "option"]
            yield Kind(path, flags, valued, {one.name: one.nargs != 1 for one in others})

    return list(walk(get_command(app), ()))


@dataclass
class Line:
    """A command line with its circumstances, before it is known where it runs.

    Attributes:
        near: Files and folders of the world that it is about.
        changes: Of the environment; None = unset.
    """

    arguments: list[str]
    near: list[str]
    changes: dict[str, str | None] = field(default_factory=dict)
    stdout: Stdout = "file"
    encoding: str = "utf-8"
    signal: tuple[signal.Signals, float] | None = None
    deleted_folder: bool = False

    def command(self, world: Path) -> Command:
        """Return what can be run in a world."""
        merged = {**environment(world), **self.changes}
        kept = {n: value.replace("@WORLD@", str(world)) for n, value in merged.items() if value is not None}
        arguments = tuple(argument.replace("@WORLD@", str(world)) for argument in self.arguments)
        return Command(arguments, world, kept, self.stdout, self.encoding, self.signal, self.deleted_folder)


def line(rng: random.Random, known: Sequence[Kind], world: Path) -> Line:
    """Return a random command line.

    Args:
        rng: All randomness comes from it.
        known: See `kinds`.
        world: Tells which runs there are.
    """
    writer = _Writer(rng, [str(path.relative_to(world)) for path in adapters(world)])
    kind = rng.choice([kind for kind in known for _ in range(WEIGHTS.get(" ".join(kind.path), 1))])
    return writer.line(kind)


class _Writer:
    def __init__(self, rng: random.Random, runs: list[str]) -> None:
        self._rng = rng
        self._good = {**GOOD, "--adapter": (*runs, f"{runs[0]}/adapter_model.safetensors")}
        self._runs = runs

    def line(self, kind: Kind) -> Line:
        rng = self._rng
        values = self._usual(kind)
        for name in kind.options:
            if rng.random() < 0.05:
                values[name] = rng.choice(self._good.get(name, (*NUMBERS, *TEXTS)))
        odd = rng.choice((0, 0, 0, 0, 1, 1, 1, 2, 3))
        for name in rng.sample(sorted(kind.options), min(odd, len(kind.options))):
            values[name] = self._odd(name)
        flags = [flag for flag in kind.flags if rng.random() < 0.15]
        if values.get("--executor") != "slurm" and rng.random() < 0.95:
            flags = [flag for flag in flags if flag not in FOR_SLURM]
            values = {name: value for name, value in values.items() if name not in FOR_SLURM}
        if COMPILES in flags and "--dry-run" not in flags:
            flags.remove(COMPILES)
        words = self._words(kind)
        if kind.path == ("data", "get") and "all" in words:
            flags.append("--offline")  # fifteen hosts are tried several times each
        written = [word for name, value in values.items() for word in self._written(name, value)]
        tail = [*flags, *written]
        if any(word.startswith("-") for word in words) and rng.random() < 0.7:
            tail.append("--")
        arguments = [*kind.path, *tail, *words] if rng.random() < 0.5 or "--" in tail else [*kind.path, *words, *tail]
        if rng.random() < 0.03:
            arguments.insert(rng.randrange(len(arguments) + 1), self._odd(""))
        near = [value.rpartition(":")[2].rpartition("=")[2] for value in (*values.values(), *words)]
        near = [
            one.split(",")[0].replace("{000..001}", "000") for one in near if one and len(one) < 200 and "\0" not in one
        ]
        near += [f"data/{one}" for one in near if one in ("dtd", "eurosat", "fgvc_aircraft", "imagenet")]
        made = Line(arguments, [one for one in near if not one.startswith(("/", ".", "~", "odd"))])
        self._circumstances(made)
        return made

    def _usual(self, kind: Kind) -> dict[str, str]:
        """Return values with which a command does something, and little of it."""
        rng = self._rng
        values: dict[str, str] = {}
        command = kind.path[0]
        if command in TRAINING:
            values |= {"--shots": "1", "--seeds": "1", "--epochs": "1"}
        if command in (*TRAINING, "eval"):
            values["--backbone" if rng.random() < 0.8 else "--pretrained"] = rng.choice(("clipfit-tiny", "model"))
            if values.get("--pretrained") == "clipfit-tiny":
                values["--pretrained"] = "model"
            values["--dataset"] = rng.choice(DATASETS)
        if command in ("robustness", "sensitivity"):
            values["--shifts"] = rng.choice(GOOD["--shifts"])
        if command == "sensitivity":  # a grid of its defaults takes minutes
            values |= {"--factor": "beta", "--dataset": rng.choice(DATASETS[:-1])}
        if command == "compare" and rng.random() < 0.3:
            values["--protocol"] = rng.choice(("few-shot", "xdataset"))
        if command == "xdataset" or values.get("--protocol") == "xdataset":
            values.pop("--dataset", None)
            values |= {"--source": rng.choice(DATASETS[:-1]), "--target": rng.choice(DATASETS)}
        if command == "predict" or (command == "eval" and rng.random() < 0.6):
            values["--adapter"] = rng.choice(self._good["--adapter"])
            if rng.random() < 0.8:
                values.pop("--backbone", None)
                values.pop("--pretrained", None)
        if command == "export":
            values["--out"] = rng.choice(self._good["--out"])
        return values

    def _odd(self, name: str) -> str:
        rng = self._rng
        if name in LENGTHY:
            return rng.choice((*NUMBERS[:4], "nan", "", " ", "x", "1.5", "1,1"))
        pool = rng.choice((PLACES, NUMBERS, TEXTS, TEXTS, self._good.get(name, TEXTS)))
        value = str(rng.choice(pool))
        if rng.random() < 0.1:
            other = str(rng.choice(rng.choice((PLACES, NUMBERS, TEXTS))))
            value = rng.choice(
                (f"{value},{other}", f"{value}={other}", f"{value}:{other}", f"{value}/{other}", value[:-1])
            )
        return value

    def _words(self, kind: Kind) -> list[str]:
        rng, words = self._rng, []
        pools: dict[str, Sequence[str]] = {
            "image": PICTURES,
            "run": self._good["--adapter"],
            "dataset": DATASETS,
            "names": (
                "dtd",
                "eurosat",
                "imagenet",
                "fgvc_aircraft",
                "all",
                "own/pets",
                "lists/pets.csv",
                "dtd,eurosat",
            ),
            "words": ("vit", "laion", "clipfit-tiny", "RN50"),
            "name": GOOD["--method"],
            "backbone": ("clipfit-tiny", "ViT-B-32", "model"),
            "pretrained": ("builtin", "openai"),
        }
        for name, several in kind.arguments.items():
            if rng.random() < 0.05:
                continue
            for _ in range(rng.choice((1, 1, 2)) if several else 1):
                odd = rng.random() < 0.2
                words.append(self._odd("") if odd else rng.choice(pools.get(name, (*DATASETS, *PLACES))))
        if kind.path == ("models", "list"):
            words.append(rng.choice(("vit-b-32", "clipfit-tiny", "rn50")))  # to look at all takes its time
        return ["." if set(word) == {"/"} else word for word in words]  # as it takes to look through the whole disk

    def _written(self, name: str, value: str) -> list[str]:
        return [f"{name}={value}"] if value.startswith("-") or self._rng.random() < 0.2 else [name, value]

    def _circumstances(self, made: Line) -> None:
        rng = self._rng
        chance = rng.random()
        if chance < 0.1:
            made.changes = {
                name: f"@WORLD@/{value}"
                if name in ("HOME", "TMPDIR", "XDG_CACHE_HOME") and value and value[:3] == "odd"
                else value
                for name, value in rng.choice(WORLDS).items()
            }
        elif chance < 0.13:
            made.stdout = rng.choice(("closed", "full", "full", "gone"))
        elif chance < 0.15:
            made.encoding = rng.choice(("ascii", "latin-1"))
        elif chance < 0.16:
            made.deleted_folder = True
        elif chance < 0.2:
            number = rng.choice((signal.SIGINT, signal.SIGTERM))
            made.signal = (number, rng.uniform(0.02, 0.6))
