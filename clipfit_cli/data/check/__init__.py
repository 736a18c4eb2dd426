"""Whether a data set is there and whole."""
