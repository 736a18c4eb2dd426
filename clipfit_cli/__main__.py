"""`python -m clipfit_cli` and the console script."""

from __future__ import annotations

import gc
import os


def main() -> None:
    """Run the command line.

    OpenMP's threads soon sleep while they wait, unless the environment says otherwise: ones that spin for long take
    the cores from any process beside this one, and two commands at once each become many times slower. GNU's spin for
    as long as it takes to the next operator of a small model; sleeping at once would cost it a quarter of its time.

    Python's garbage collector looks less often: while torch and open_clip are imported there is nothing to find.
    """
    gc.set_threshold(100_000)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "6000")
    from clipfit_cli.cli.app import app

    app(prog_name="clipfit")


if __name__ == "__main__":
    main()
