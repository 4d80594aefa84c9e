"""Parse command-line values, without slow imports."""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from typing import get_args

from nas.common.boundary import shown
from nas.common.errors import ArgumentError, BudgetError
from nas.common.units import BYTES_FORM, MAX_COUNT, TIME_FORM, parse_bytes, parse_seconds
from nas.run.roles import ExportRule, SolvedRole

_MAX_WORKERS = 10_000


def parse_budget(text: str) -> tuple[float | None, int | None]:
    """Parse one `--budget`: `4m` → (240.0, None); `200` → (None, 200).

    Args:
        text: The value.

    Returns:
        The time in seconds and the number of trials, one of them None.

    Raises:
        BudgetError: If the value is neither.
    """
    count = _number(text.strip())
    if count is not None and 0 < count <= MAX_COUNT:
        return None, count
    try:
        seconds = parse_seconds(text)
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        raise BudgetError(
            f"--budget: invalid value; expected a time ({TIME_FORM}) or a number of trials (at most {MAX_COUNT}, for "
            f"instance 200), got {shown(text)}"
        )
    return seconds, None


def parse_budgets(texts: Sequence[str]) -> tuple[float | None, int | None]:
    """Parse all `--budget` options; the last one of each kind applies.

    Args:
        texts: The values.

    Returns:
        The time in seconds and the number of trials; None where not given.

    Raises:
        BudgetError: If a value is neither.
    """
    time_seconds: float | None = None
    trials: int | None = None
    for text in texts:
        seconds, count = parse_budget(text)
        time_seconds, trials = seconds or time_seconds, count or trials
    return time_seconds, trials


def parse_memory_budget(text: str | None) -> int | None:
    """Parse `--memory-budget`.

    Args:
        text: The value; None if it was not given.

    Returns:
        The budget in bytes.

    Raises:
        BudgetError: If the value is not a number of bytes with a unit.
    """
    if text is None:
        return None
    try:
        count = parse_bytes(text)
    except ValueError:
        count = 0
    if count <= 0:
        raise BudgetError(f"--memory-budget: invalid value; expected {BYTES_FORM}, got {shown(text)}")
    return count


_RULES: Mapping[str, ExportRule] = {
    "answer": "answer",
    "best": "best",
    "knee": "knee",
    **{role: role for role in get_args(SolvedRole)},
    "distilled": "distilled",
}
"""The rules of `--pick` that are a single word."""


def parse_pick(words: Sequence[str]) -> tuple[ExportRule, float]:
    """Parse `--pick`.

    Args:
        words: The words of the option.

    Returns:
        The rule, and how much lower than the best the metric may be.

    Raises:
        ArgumentError: If the words are not a rule.
    """
    if len(words) == 1 and words[0] in _RULES:
        return _RULES[words[0]], 0.0
    if len(words) == 2 and words[0] == "smallest-within" and re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,50})?", words[1]):
        return "smallest-within", float(words[1])
    raise ArgumentError(
        f"--pick: invalid value; expected {', '.join(_RULES)}, or smallest-within with the allowed loss of the "
        f"metric, for instance smallest-within 0.01, got {shown(' '.join(words))}"
    )


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """Return the parser of an option that is a whole number.

    Args:
        least: The smallest number.
        most: The largest number.

    Returns:
        A function from the value to the number that raises `argparse.ArgumentTypeError` for any other value.
    """

    def parse(text: str) -> int:
        number = _number(text)
        if number is None or not least <= number <= most:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} to {most}, got {shown(text)}")
        return number

    return parse


def worker_count(text: str) -> int | None:
    """Parse `--workers`.

    Args:
        text: The value.

    Returns:
        The number of workers; None for automatic.

    Raises:
        argparse.ArgumentTypeError: If the value is neither `auto` nor a number.
    """
    number = None if text == "auto" else _number(text)
    if text != "auto" and (number is None or number > _MAX_WORKERS):
        raise argparse.ArgumentTypeError(f"expected auto or a whole number from 0 to {_MAX_WORKERS}, got {shown(text)}")
    return number


def _number(text: str) -> int | None:
    """Return a whole number without sign; None if the text is none or far too large: Python converts no long ones."""
    return int(text) if re.fullmatch(r"[0-9]{1,30}", text) else None
