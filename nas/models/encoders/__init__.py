"""Frozen transformers as stacks of layers, one file per encoder family."""

from nas.common.vml_workaround import resolve_vector_functions

# Before the first computation by several threads; every part of the program that computes imports encoders.
resolve_vector_functions()
