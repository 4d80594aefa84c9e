"""Count an estimated time down, so that it never stands still and never goes below zero."""

_COUNTED = 0.9
"""The part of an estimate that is counted down as it is; what takes longer is counted ever more slowly."""


def counted_down(estimate: float, waited: float) -> float:
    """Return what is left of an estimated time: less with every second, and never less than 0.

    Args:
        estimate: The estimated time in seconds.
        waited: The seconds since it was estimated.
    """
    if estimate <= 0:
        return 0.0
    if waited <= _COUNTED * estimate:
        return estimate - waited
    return (1 - _COUNTED) * _COUNTED * estimate**2 / waited
