"""VLMo."""
