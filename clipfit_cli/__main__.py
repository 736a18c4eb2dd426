"""`python -m clipfit_cli` and the console script."""

from __future__ import annotations

import os


def main() -> None:
    """Run the command line.

    OpenMP's threads sleep while they wait, unless the environment says otherwise: spinning ones take the cores from
    any process beside this one, and two commands at once each become many times slower.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from clipfit_cli.cli.app import app

    app(prog_name="clipfit")


if __name__ == "__main__":
    main()
