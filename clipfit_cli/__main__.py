"""`python -m clipfit_cli` and the console script."""

from __future__ import annotations

import os


def main() -> None:
    """Run the command line; what goes wrong outside of a command, in the first moments too, is a message as well."""
    try:
        os.getcwd()  # noqa: PTH109  where it is gone, MKL ends the process in words of its own
        from clipfit_cli import process

        process.set_up()
        from clipfit_cli.cli.app import app

        app(prog_name="clipfit")
    except (Exception, KeyboardInterrupt) as error:
        from clipfit_cli.cli.errors import report

        raise SystemExit(report(error)) from None


if __name__ == "__main__":
    main()
