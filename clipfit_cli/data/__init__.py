"""Data sets: what is known of each, how it is read, which images a draw holds, and their pixels."""
