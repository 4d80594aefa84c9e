"""All fusion families on one recipe, in one table."""
