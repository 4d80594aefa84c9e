"""Order of points with several objectives (Deb et al., NSGA-II, IEEE TEC 2002, section III)."""

import math
from collections.abc import Sequence

Values = tuple[float, ...]
"""One value per objective, higher is better."""


def dominates(first: Values, second: Values) -> bool:
    """Return whether the first point is nowhere worse than the second, and better in at least one objective."""
    return first != second and all(one >= other for one, other in zip(first, second, strict=True))


def fronts(points: Sequence[Values]) -> list[list[int]]:
    """Return the indices of the points, front by front: points of a front are dominated only by earlier fronts."""
    remaining = list(range(len(points)))
    found = []
    while remaining:
        front = [
            index for index in remaining if not any(dominates(points[other], points[index]) for other in remaining)
        ]
        found.append(front)
        taken = set(front)
        remaining = [index for index in remaining if index not in taken]
    return found


def crowding(points: Sequence[Values]) -> list[float]:
    """Return the crowding distance of each point of one front.

    It is the distance between the point's neighbours, relative to the range and summed over objectives; infinite for
    the extreme points.
    """
    distances = [0.0] * len(points)
    for objective in range(len(points[0]) if points else 0):
        order = sorted(range(len(points)), key=lambda index: points[index][objective])
        span = points[order[-1]][objective] - points[order[0]][objective]
        distances[order[0]] = distances[order[-1]] = math.inf
        if span > 0:
            for before, index, after in zip(order, order[1:], order[2:], strict=False):
                distances[index] += (points[after][objective] - points[before][objective]) / span
    return distances


def ranks(points: Sequence[Values]) -> list[tuple[int, float]]:
    """Return a sort key per point: its front and its negative crowding distance; lower is better.

    With one objective, the key is the position among the distinct values.
    """
    found: list[tuple[int, float]] = [(0, 0.0)] * len(points)
    if points and len(points[0]) == 1:
        positions = {value: index for index, value in enumerate(sorted({point[0] for point in points}, reverse=True))}
        return [(positions[point[0]], 0.0) for point in points]
    for number, front in enumerate(fronts(points)):
        for index, distance in zip(front, crowding([points[index] for index in front]), strict=True):
            found[index] = number, -distance
    return found
