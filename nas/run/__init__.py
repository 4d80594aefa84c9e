"""A search from start to end: run directories, phases, exports and reports."""
