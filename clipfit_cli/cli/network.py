"""Whether a command may touch the network."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext


def offline_if(asked: bool) -> AbstractContextManager[None]:
    """Return the context in which a command runs: without the network if so asked, here or by the environment.

    Args:
        asked: ``--offline`` was given.
    """
    from clipfit_cli.data.fetch.transfer import is_offline
    from clipfit_cli.models.hub import network_closed

    return network_closed() if asked or is_offline() else nullcontext()
