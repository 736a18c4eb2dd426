"""One training loop and one evaluation loop, fed plain arguments."""
