"""Runs on Slurm: with a scheduler that is faked, and with a real one on this machine."""
