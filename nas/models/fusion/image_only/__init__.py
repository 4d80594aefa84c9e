"""image only."""
