"""Selection that the evolutionary strategies share."""

from nas.search.pareto import Values, ranks
from nas.search.space import Architecture


def best(known: dict[Architecture, Values], count: int) -> list[tuple[Architecture, Values]]:
    """The best so many, best first: by front and crowding; of equal ones the smaller architecture."""
    entries = list(known.items())
    order = ranks([values for _, values in entries])
    places = sorted(range(len(entries)), key=lambda place: (order[place], entries[place][0]))
    return [entries[place] for place in places[:count]]
