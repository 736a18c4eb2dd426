"""One image file, and a look into a folder."""
