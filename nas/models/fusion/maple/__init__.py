"""MaPLe."""
