"""A command with commands of its own that lists what there is where none of them is named."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


class ListUnlessNamed(TyperGroup):
    """Takes what is no command's name for words to filter the list by."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in (*self.commands, "-h", "--help"):
            args = ["list", *args]
        return super().parse_args(ctx, args)
