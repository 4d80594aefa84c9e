"""Parse and format bytes and seconds: `2GiB`, `4m`. Inside the program both are plain numbers."""

import re
from decimal import Decimal

_BYTES = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

MAX_COUNT = 10**9
"""The upper bound of steps, trials and images: no search has more."""
MAX_SEED = 2**31 - 1
MAX_BYTES = 10**18
MAX_SECONDS = 3650 * 86400.0

BYTES_FORM = "a number with a unit from B, KB, MB, GB, TB, KiB, MiB, GiB, TiB, at most 1000000TB, for instance 2GiB"
TIME_FORM = "numbers with units from s, m, h, d, at most 3650d, for instance 4m or 1h30m"

_BYTES_PATTERN = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?i?B)\s*", re.IGNORECASE | re.ASCII)
_SECONDS_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd])")
_SECONDS_PATTERN = re.compile(rf"\s*(?:{_SECONDS_PART.pattern})+\s*", re.ASCII)


def parse_bytes(text: str) -> int:
    """Parse an amount of memory: `2GiB` → 2147483648.

    Raises:
        ValueError: If the text has another form or is above `MAX_BYTES`; the message names the allowed form.
    """
    match = _BYTES_PATTERN.fullmatch(text)
    count = MAX_BYTES + 1 if match is None else Decimal(match[1]) * _BYTES[match[2].upper()]
    if count > MAX_BYTES:
        raise ValueError(f"expected {BYTES_FORM}")
    return int(count)


def parse_seconds(text: str) -> float:
    """Parse a duration: `1h30m` → 5400.0.

    Raises:
        ValueError: If the text has another form or is above `MAX_SECONDS`; the message names the allowed form.
    """
    parts = _SECONDS_PART.findall(text) if _SECONDS_PATTERN.fullmatch(text) else [("inf", "s")]
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if seconds > MAX_SECONDS:
        raise ValueError(f"expected {TIME_FORM}")
    return seconds


def exact_seconds(seconds: float) -> str:
    """Format a duration so that `parse_seconds` returns it exactly: 90.5 → `90.5s`."""
    return f"{Decimal(repr(seconds)):f}s"


def format_bytes(count: float) -> str:
    """Format an amount of memory: 1610612736 → `1.50 GiB`."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:.0f} B"


def format_seconds(seconds: float) -> str:
    """Format a duration: 75.3 → `1m15s`."""
    whole = max(round(seconds), 0)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
