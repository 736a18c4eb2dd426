"""A random campaign: command lines, damaged files, permissions, odd circumstances; each is checked for its manners.

    python -m tests.soak.campaign --seed 1 --commands 1000
    python -m tests.soak.campaign --seed 1 --minutes 5
    python -m tests.soak.campaign --seed 1 --only 17

Of each command it must hold: an exit code that is documented, and a line that says why where it is not 0; no
traceback; an end within 20 s; less than 2 GiB of memory; no control characters of strangers on stdout and stderr;
nothing changed outside of its world.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shlex
import signal
import sys
import tempfile
import time
import traceback
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

from tests.soak import lines, worlds
from tests.soak.damage import Damage
from tests.soak.forking import (
    Command,
    Outcome,
    die_with_parent,
    import_everything,
    leave,
    place_in_memory,
    run_afresh,
    run_forked,
)

PATIENCE_S = 60
START_UP_S = 20
"""That a busy machine may take to import torch and open_clip; it comes on top."""
MOST_MIB = 2048
CODES = {0, 2, 3, 4, 5, 6}
NOBODY_READS = 141
BROKE_DOWN = 1
SIGNALLED = {signal.SIGINT: 130, signal.SIGTERM: 143}
AFRESH_EVERY = 50
"""Of so many commands one is started as a shell starts it; the others are forked."""
_FOR_PROGRAMS = (["data", "path"], ["export"])
_FILE = re.compile(r'File "([^"]+)", line (\d+)|([\w/.-]+\.py):(\d+)')


def faults_of(command: Command, outcome: Outcome) -> list[str]:
    """Return what is wrong with the outcome of a command; each in a few words that tell the kind."""
    found = []
    both = outcome.stdout + outcome.stderr
    if outcome.hung:
        found.append(f"no end within {PATIENCE_S} s, {_place(outcome.stderr, first=True)}")
    elif "Traceback" in both or "Exception ignored" in both:
        found.append(f"traceback: {_last_line(outcome.stderr)}, {_place(outcome.stderr)}")
    if outcome.peak_mib > MOST_MIB:
        found.append(f"memory above {MOST_MIB} MiB")
    if not outcome.hung:
        found += _wrong_code(command, outcome)
    if foreign := _foreign_letters(command, outcome):
        found.append(f"control characters on {foreign} of {command.arguments[0] if command.arguments else 'clipfit'}")
    if outcome.guarded:
        found.append(f"changes devices: {outcome.guarded.splitlines()[0]}")
    return found


def _wrong_code(command: Command, outcome: Outcome) -> list[str]:
    code, says = outcome.code, outcome.stderr
    allowed = CODES | ({SIGNALLED[command.signal[0]]} if command.signal else set())
    allowed |= {NOBODY_READS} if command.stdout == "gone" else set()
    if code == BROKE_DOWN and re.search(r"^error: .*(not finite|no longer|broke down|nan|diverge)", says, re.M | re.I):
        return []
    if code not in allowed:
        return [] if "Traceback" in says else [f"exit code {code}"]
    if (
        code
        and code not in (NOBODY_READS, *SIGNALLED.values())
        and not re.search(r"^(error: |Usage: | *Usage: )", says, re.M)
    ):
        return [f"exit code {code} without a word"]
    return []


def _foreign_letters(command: Command, outcome: Outcome) -> str:
    """Return on which of the two there are control characters; data for programs may hold what it likes."""
    words = list(command.arguments)
    for_programs = any(words[: len(head)] == head for head in _FOR_PROGRAMS)
    csv = any(one.endswith("--csv=-") for one in words) or "--csv - " in " ".join(words) + " "
    texts = {"stderr": outcome.stderr} | ({} if csv or for_programs else {"stdout": outcome.stdout})
    for name, text in texts.items():
        if any(unicodedata.category(letter) == "Cc" and letter not in "\n\t" for letter in set(text)):
            return name
    return ""


def _last_line(text: str) -> str:
    ends = [
        line for line in text.splitlines() if re.match(r"[A-Za-z_.]*(Error|Exception|Interrupt|Warning|Exit)\b", line)
    ]
    return re.sub(r"\S{60,}", "...", re.sub(r"/\S+", "PATH", ends[-1]))[:120] if ends else "?"


def _place(text: str, *, first: bool = False) -> str:
    """Return the line of the package that a traceback names innermost."""
    found = [one for one in _FILE.findall(text) if "clipfit_cli/" in (one[0] or one[2]) and "__main__" not in one[0]]
    if not found:
        return "?"
    name, line, other, number = found[0 if first else -1]
    return f"{(name or other).rpartition('clipfit_cli/')[2]}:{line or number}"


class Campaign:
    """One process's share of the commands."""

    def __init__(self, seed: int, base: Path, place: Path) -> None:
        """Take a world that is made, and a folder for copies of it."""
        self._seed, self._base, self._place = seed, base, place
        self._kinds = lines.kinds()

    def prepare(self, index: int) -> tuple[Command, list[str]]:
        """Return the command of an index in a world of its own, and what is damaged in that."""
        rng = random.Random(f"{self._seed}/{index}")
        written = lines.line(rng, self._kinds, self._base)
        worlds.remove_world(self._place)
        world = worlds.copy_world(self._base, self._place)
        if written.signal and self._is_afresh(index):  # Python itself has to be up
            written.signal = (written.signal[0], written.signal[1] + 1.5)
        command = written.command(world)
        damage = Damage(rng, world)
        damaged = []
        for _ in range(rng.choice((0, 0, 0, 1, 1, 1, 2, 3))):
            try:
                damaged.append(damage.one(written.near))
            except Exception as error:  # what is damaged twice cannot always be
                damaged.append(f"damaging failed: {error}".encode("utf-8", "backslashreplace").decode())
        return command, damaged

    def _is_afresh(self, index: int) -> bool:
        return index % AFRESH_EVERY == AFRESH_EVERY - 1

    def run(self, index: int) -> tuple[Command, list[str], Outcome]:
        """Run the command of an index; one that did not end in time twice, for the machine may have been busy."""
        afresh = self._is_afresh(index)
        run, patience_s = (run_afresh, PATIENCE_S + START_UP_S) if afresh else (run_forked, PATIENCE_S)
        command, damaged = self.prepare(index)
        outcome = run(command, patience_s=patience_s)
        if outcome.hung:
            command, damaged = self.prepare(index)
            outcome = run(command, patience_s=patience_s)
        return command, damaged, outcome

    def story(self, index: int, command: Command, damaged: list[str], outcome: Outcome) -> str:
        """Return all that there is to say of a command."""
        usual = worlds.environment(command.world)
        changed = {name: value for name, value in command.environment.items() if usual.get(name) != value}
        changed |= {name: "(unset)" for name in usual if name not in command.environment}
        circumstances = {
            "environment": changed,
            "damaged": damaged,
            "stdout": command.stdout if command.stdout != "file" else "",
            "encoding": command.encoding if command.encoding != "utf-8" else "",
            "signal": command.signal,
            "deleted folder": command.deleted_folder,
        }
        told = "".join(f"  {name}: {_short(str(value), 1500)}\n" for name, value in circumstances.items() if value)
        line = _short(_readable(shlex.join(command.arguments)), 1500)
        return (
            f"command {index} of seed {self._seed}: clipfit {line}\n{told}"
            f"  exit code {outcome.code}, {outcome.seconds:.1f} s, {outcome.peak_mib:.0f} MiB\n"
            f"  stdout: {_short(_readable(outcome.stdout), 300)}\n  stderr: {_short(_readable(outcome.stderr), 2500)}\n"
            f"  again: python -m tests.soak.campaign --seed {self._seed} --only {index}"
        )


def _readable(text: str) -> str:
    return "".join(letter if letter == "\n" or letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 4]} [...] {text[-3 * most // 4 :]}"


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign and return 1 if anything was found, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--commands", type=int, default=1000, help="how many at the most")
    parser.add_argument("--minutes", type=float, default=600, help="how long at the most, once the world is made")
    parser.add_argument("--first", type=int, default=0, help="index of the first command")
    parser.add_argument("--only", type=int, help="run the command of this index alone, and keep its world")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--stories", type=int, default=1, help="how many findings of a kind to print in full")
    options = parser.parse_args(arguments)
    import_everything()
    place = place_in_memory() if options.only is None else Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        base = place / "base"
        worlds.make_world(base)
        if options.only is not None:
            return _only(Campaign(options.seed, base, place / "world"), options.only)
        return _all(options, base, place)
    finally:
        if options.only is None:
            leave(place)


def _only(campaign: Campaign, index: int) -> int:
    command, damaged, outcome = campaign.run(index)
    wrong = faults_of(command, outcome)
    print(campaign.story(index, command, damaged, outcome))
    print(f"  world: {command.world}\n  {wrong or 'nothing is wrong with it'}")
    return bool(wrong)


def _all(options: argparse.Namespace, base: Path, place: Path) -> int:
    began = time.monotonic()
    end = began + 60 * options.minutes
    last = options.first + options.commands
    pipes = []
    for worker in range(options.workers):
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.close(reader)
            die_with_parent()
            code = 1
            try:
                _share(options, Campaign(options.seed, base, place / f"world{worker}"), worker, last, end, writer)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        os.close(writer)
        pipes.append(reader)
    codes: Counter[str] = Counter()
    findings: dict[str, list[int]] = {}
    for found in _read(pipes):
        codes[found["code"]] += 1
        for what in found["findings"]:
            findings.setdefault(what, []).append(found["index"])
        if any(len(findings[what]) <= options.stories for what in found["findings"]):
            print(f"FOUND {'; '.join(found['findings'])}\n{found['story']}\n", flush=True)
    broken = [status for status in (os.wait()[1] for _ in pipes) if status]
    for what, known in sorted(findings.items(), key=lambda pair: -len(pair[1])):
        print(f"{len(known):5} x {what} (commands {', '.join(map(str, known[:8]))})")
    done = ", ".join(f"{count} x {code}" for code, count in sorted(codes.items()))
    print(
        f"soak: {codes.total()} commands of seed {options.seed} in {time.monotonic() - began:.0f} s; "
        f"exit codes {done}; {sum(map(len, findings.values()))} findings of {len(findings)} kinds",
        flush=True,
    )
    return 1 if findings or broken or not codes else 0


def _share(options: argparse.Namespace, campaign: Campaign, worker: int, last: int, end: float, writer: int) -> None:
    for index in range(options.first + worker, last, options.workers):
        if time.monotonic() > end:
            return
        command, damaged, outcome = campaign.run(index)
        wrong = faults_of(command, outcome)
        line = {"index": index, "code": "hung" if outcome.hung else str(outcome.code), "findings": wrong}
        line["story"] = campaign.story(index, command, damaged, outcome) if wrong else ""
        content = (json.dumps(line) + "\n").encode()
        while content:
            content = content[os.write(writer, content) :]


def _read(pipes: list[int]) -> Any:
    """Yield what the processes tell, as it comes."""
    import select

    texts = dict.fromkeys(pipes, b"")
    while texts:
        for pipe in select.select(list(texts), [], [])[0]:
            got = os.read(pipe, 1 << 16)
            if not got:
                del texts[pipe]
                continue
            *whole, texts[pipe] = (texts[pipe] + got).split(b"\n")
            yield from map(json.loads, whole)


if __name__ == "__main__":
    sys.exit(main())
