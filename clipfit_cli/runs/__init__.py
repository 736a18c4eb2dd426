"""Runs are done here: training, tests, sweeps."""
