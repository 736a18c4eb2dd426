"""Few-shot fine-tuning of CLIP models under one protocol.

From Python, `clipfit_cli.load_adapter(PATH)` gives a saved adapter ready to classify pictures.
"""

from __future__ import annotations

from clipfit_cli._version import __version__ as __version__

TYPE_CHECKING = False  # of typing's, which would be read before a command can heed Ctrl-C
if TYPE_CHECKING:
    from clipfit_cli.adapters.predict import load_adapter as load_adapter


def __getattr__(name: str) -> object:
    """Import what needs torch when it is first asked for."""
    if name == "load_adapter":
        from clipfit_cli.adapters.predict import load_adapter

        return load_adapter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
