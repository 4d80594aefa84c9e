"""Frozen transformers as stacks of layers, one file per encoder family."""
