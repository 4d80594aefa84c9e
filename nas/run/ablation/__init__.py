"""One gene of an architecture varied at a time, in one table."""
