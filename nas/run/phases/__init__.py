"""The phases of a search: supernet, candidates, finalists, and reruns for the comparison with the default."""
