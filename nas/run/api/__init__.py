"""The public Python interface of searches: start one from data in memory, resume it, and look at its results."""
