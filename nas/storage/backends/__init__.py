"""Storage backends: the journal file and SQL databases."""
