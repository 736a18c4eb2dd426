"""What is run, in what order, and how the records become a table."""
