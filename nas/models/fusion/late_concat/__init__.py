"""LateConcat."""
