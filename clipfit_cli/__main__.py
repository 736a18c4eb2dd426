"""`python -m clipfit_cli` and the console script."""

from __future__ import annotations

from clipfit_cli import process


def main() -> None:
    """Run the command line."""
    process.set_up()
    from clipfit_cli.cli.app import app

    app(prog_name="clipfit")


if __name__ == "__main__":
    main()
