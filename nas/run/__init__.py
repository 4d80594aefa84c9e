"""A search from start to end: run directories, phases, what is exported and reported."""
