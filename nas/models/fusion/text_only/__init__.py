"""text only."""
