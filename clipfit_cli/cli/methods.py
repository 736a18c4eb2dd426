"""`clipfit methods`."""

from __future__ import annotations

import dataclasses

from clipfit_cli.cli.console import emit
from clipfit_cli.cli.options import OutputOptions, command


@command
def methods(output: OutputOptions) -> None:
    """List the methods: what trains, with which settings, and where each comes from."""
    from clipfit_cli import methods as room
    from clipfit_cli.reports.tables import Column, Table

    columns = (
        Column("method", "method"),
        Column("summary", "what trains", "prose"),
        Column("settings", "settings", "prose"),
        Column("source", "source", terminal=False),
    )
    infos = [room.get(name) for name in room.available()]
    rows = tuple(
        {
            "method": info.name,
            "summary": info.summary,
            "settings": " ".join(f"{f.name}={f.default}" for f in dataclasses.fields(info.settings)) or None,
            "source": info.source,
        }
        for info in infos
    )
    emit(Table("Methods", columns, rows), output)
