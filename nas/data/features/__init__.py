"""Hidden states of the frozen encoder layers, cached on disk."""
