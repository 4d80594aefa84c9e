"""Frozen encoders, fusion families, and the classifier that is exported."""
