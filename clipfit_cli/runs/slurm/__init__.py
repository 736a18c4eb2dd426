"""Runs on a cluster: plans are handed to Slurm, and what came of them is read from the runs folder."""
