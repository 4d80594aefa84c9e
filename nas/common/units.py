"""Parse and format bytes and seconds: `2GiB`, `4m`. Inside the program both are plain numbers."""

import re

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

BYTES_FORM = "a number with a unit from B, KB, MB, GB, TB, KiB, MiB, GiB, TiB, for instance 2GiB"
TIME_FORM = "numbers with units from s, m, h, d, for instance 4m or 1h30m"


def parse_bytes(text: str) -> int:
    """Parse an amount of memory: `2GiB` → 2147483648.

    Raises:
        ValueError: If the text has another form; the message names the allowed form.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?i?B)\s*", text, re.IGNORECASE)
    if match is None:
        raise ValueError(f"expected {BYTES_FORM}, got {text!r}")
    return int(float(match[1]) * _BYTES[match[2].upper()])


def parse_seconds(text: str) -> float:
    """Parse a duration: `1h30m` → 5400.0.

    Raises:
        ValueError: If the text has another form; the message names the allowed form.
    """
    if not re.fullmatch(r"\s*(\d+(\.\d+)?[smhd])+\s*", text):
        raise ValueError(f"expected {TIME_FORM}, got {text!r}")
    return sum(float(number) * _SECONDS[unit] for number, unit in re.findall(r"(\d+(?:\.\d+)?)([smhd])", text))


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
