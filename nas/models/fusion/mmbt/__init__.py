"""MMBT."""
