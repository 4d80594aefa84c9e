"""Selection shared by the evolutionary strategies."""

from nas.search.pareto import Values, ranks
from nas.search.space import Architecture


def select_best(scored: dict[Architecture, Values], count: int) -> list[tuple[Architecture, Values]]:
    """Return the best candidates, best first: by front, then by crowding distance, then the smaller architecture.

    Args:
        scored: The values of every candidate; one per objective, higher is better.
        count: The number of candidates to return; all of them if fewer exist.
    """
    entries = list(scored.items())
    order = ranks([values for _, values in entries])
    indices = sorted(range(len(entries)), key=lambda index: (order[index], entries[index][0]))
    return [entries[index] for index in indices[:count]]
