"""Campaigns of hostile command lines, injected faults and shared plans; see `make soak`."""
