"""One run: training, what its folder holds, and going on after an interruption."""
