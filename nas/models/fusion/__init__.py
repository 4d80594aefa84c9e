"""Fusion families, one folder each, and the weight-sharing supernet."""
