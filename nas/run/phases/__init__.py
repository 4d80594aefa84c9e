"""The phases of a search: linear classifier, supernet, candidates, finalists, and reruns with new seeds."""
