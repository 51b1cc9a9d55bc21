"""Speed and memory, always as two computations in one run: `make benchmark`."""
