"""The published lists, one file a layout."""
