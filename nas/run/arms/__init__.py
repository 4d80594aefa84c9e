"""A search over several encoders and families: one run of each combination, under one budget."""
