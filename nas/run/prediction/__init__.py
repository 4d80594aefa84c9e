"""Prediction with an exported model: of one sample, and of a table of any length."""
