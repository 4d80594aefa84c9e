"""Propose a search file for a table of images, texts and labels."""
