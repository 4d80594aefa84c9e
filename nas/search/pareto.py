"""Who is better than whom where there are several objectives (Deb et al., NSGA-II, IEEE TEC 2002, section III)."""

import math
from collections.abc import Sequence

Values = tuple[float, ...]
"""One number an objective, each better when higher."""


def dominates(first: Values, second: Values) -> bool:
    """Whether the first is nowhere worse and somewhere better; values are better when higher."""
    return first != second and all(one >= other for one, other in zip(first, second, strict=True))


def fronts(points: Sequence[Values]) -> list[list[int]]:
    """Places of the points, front by front: those of a front are dominated by none but points of earlier ones."""
    left = list(range(len(points)))
    found = []
    while left:
        front = [place for place in left if not any(dominates(points[other], points[place]) for other in left)]
        found.append(front)
        taken = set(front)
        left = [place for place in left if place not in taken]
    return found


def crowding(points: Sequence[Values]) -> list[float]:
    """Of each point of one front, how far apart its neighbours are, summed over objectives; infinite at the ends."""
    distances = [0.0] * len(points)
    for objective in range(len(points[0]) if points else 0):
        order = sorted(range(len(points)), key=lambda place: points[place][objective])
        span = points[order[-1]][objective] - points[order[0]][objective]
        distances[order[0]] = distances[order[-1]] = math.inf
        if span > 0:
            for before, place, after in zip(order, order[1:], order[2:], strict=False):
                distances[place] += (points[after][objective] - points[before][objective]) / span
    return distances


def ranks(points: Sequence[Values]) -> list[tuple[int, float]]:
    """Of each point its front and minus its crowding distance; less is better. Of one objective the order of values."""
    found: list[tuple[int, float]] = [(0, 0.0)] * len(points)
    if points and len(points[0]) == 1:
        places = {value: place for place, value in enumerate(sorted({point[0] for point in points}, reverse=True))}
        return [(places[point[0]], 0.0) for point in points]
    for index, front in enumerate(fronts(points)):
        for place, distance in zip(front, crowding([points[place] for place in front]), strict=True):
            found[place] = index, -distance
    return found
