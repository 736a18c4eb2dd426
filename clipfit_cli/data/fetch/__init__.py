"""How a data set gets below the data root."""
