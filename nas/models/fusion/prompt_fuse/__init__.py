"""PromptFuse."""
