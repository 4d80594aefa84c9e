"""Data readers, one per format."""
