"""Bilinear."""
