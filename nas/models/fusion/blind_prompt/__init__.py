"""BlindPrompt."""
