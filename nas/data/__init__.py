"""Readers of data sets, images, preprocessing, and cached features of the frozen encoders."""
