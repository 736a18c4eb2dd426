"""Few-shot fine-tuning of CLIP models under one protocol.

From Python, `clipfit_cli.load_adapter(PATH)` gives a saved adapter ready to classify pictures, and
`clipfit_cli.results(RUNS_DIR)` finished tests as a DataFrame.
"""

from __future__ import annotations

from clipfit_cli._version import __version__ as __version__

TYPE_CHECKING = False  # of typing's, which would be read before a command can heed Ctrl-C
if TYPE_CHECKING:
    from clipfit_cli.adapters.predict import load_adapter as load_adapter
    from clipfit_cli.results.frame import results as results


def __getattr__(name: str) -> object:
    """Import what takes long when it is first asked for."""
    if name == "load_adapter":
        from clipfit_cli.adapters.predict import load_adapter

        return load_adapter
    if name == "results":
        import importlib

        return importlib.import_module("clipfit_cli.results")  # which can be called, too
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
