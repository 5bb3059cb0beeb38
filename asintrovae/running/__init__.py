"""One run: the loop, its checkpoints, its record and its processes."""
