"""What the documentation quotes of the program: `python -m tests.update_docs` writes every help block anew."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner

from clipfit_cli.cli.app import app

ROOT = Path(__file__).parent.parent
DOCUMENTS = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
)
HELP_BLOCK = re.compile(r"```text\n\$ clipfit ?(?P<words>[a-z0-9 ]*?) ?--help\n.*?```\n", flags=re.S)


def commands() -> dict[str, Any]:
    """Return every command and group by the words that call it, the whole program under the empty text."""

    def below(words: str, command: Any) -> Iterator[tuple[str, Any]]:
        yield words, command
        for name, child in getattr(command, "commands", {}).items():
            yield from below(f"{words} {name}".strip(), child)

    return dict(below("", typer.main.get_command(app)))


def help_block(words: str) -> str:
    """Return the block that shows the help of a command, 80 columns wide."""
    environment = {"COLUMNS": "80", "TERMINAL_WIDTH": "80"}
    result = CliRunner().invoke(app, [*words.split(), "--help"], prog_name="clipfit", env=environment)
    assert result.exit_code == 0, result.output
    lines = "\n".join(line.rstrip() for line in result.output.strip("\n").splitlines()).strip("\n")
    shown = re.sub(r"\n{2,}", "\n\n", lines)
    return f"```text\n$ {' '.join(f'clipfit {words}'.split())} --help\n\n{shown}\n```\n"


def renewed(text: str) -> str:
    """Return a document with its help blocks as the program prints them now."""
    return HELP_BLOCK.sub(lambda block: help_block(block["words"]), text)


def main() -> None:
    """Write the documents."""
    for path in DOCUMENTS:
        path.write_text(renewed(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
