"""The version, in a file of its own that any room may read."""

__version__ = "0.3.0.dev0"
