"""The phases of a search: linear classifier, supernet, candidates, finalists, and the race with further seeds."""
