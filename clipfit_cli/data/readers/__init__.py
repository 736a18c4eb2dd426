"""One file per layout of files on disk."""
