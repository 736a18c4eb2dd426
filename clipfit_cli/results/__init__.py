"""What is kept of finished runs, and how it is summed up, compared and shown.

`clipfit_cli.results(RUNS_DIR)` is a DataFrame of the finished tests: the room itself can be called.
"""

from __future__ import annotations

import sys
from types import ModuleType

TYPE_CHECKING = False  # of typing's, which would be read before a command can heed Ctrl-C
if TYPE_CHECKING:
    import os
    from typing import Any

    import pandas


class _Room(ModuleType):
    def __call__(self, runs_dir: str | os.PathLike[str] = "runs", **filters: Any) -> pandas.DataFrame:
        """Return the tests of finished runs as a DataFrame; see `frame.results`."""
        from clipfit_cli.results.frame import results

        return results(runs_dir, **filters)


sys.modules[__name__].__class__ = _Room
