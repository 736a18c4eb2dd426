"""`python -m clipfit_cli` and the console script."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from clipfit_cli.cli.app import app

    app(prog_name="clipfit")


if __name__ == "__main__":
    main()
