"""Parse command-line values, without slow imports."""

import argparse
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nas.common.errors import ArgumentError, BudgetError
from nas.common.units import TIME_FORM, parse_bytes, parse_seconds

if TYPE_CHECKING:
    from nas.search.objectives import Pick


def parse_budget(text: str) -> tuple[float | None, int | None]:
    """Parse one `--budget`: `4m` → (240.0, None); `200` → (None, 200).

    Args:
        text: The value.

    Returns:
        The time in seconds and the number of trials, one of them None.

    Raises:
        BudgetError: If the value is neither.
    """
    if text.isascii() and text.strip().isdigit() and int(text) > 0:
        return None, int(text)
    try:
        seconds = parse_seconds(text)
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        raise BudgetError(f"--budget {text!r}: expected a time ({TIME_FORM}) or a number of trials (for instance 200)")
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
        return parse_bytes(text)
    except ValueError as error:
        raise BudgetError(f"--memory-budget {text!r}: {error}") from error


def parse_pick(words: Sequence[str]) -> tuple["Pick", float]:
    """Parse `--pick`.

    Args:
        words: The words of the option.

    Returns:
        The rule, and how much lower than the best the metric may be.

    Raises:
        ArgumentError: If the words are not a rule.
    """
    if list(words) == ["best"]:
        return "best", 0.0
    if list(words) == ["knee"]:
        return "knee", 0.0
    if len(words) == 2 and words[0] == "smallest-within" and re.fullmatch(r"\d+(\.\d+)?", words[1]):
        return "smallest-within", float(words[1])
    raise ArgumentError(
        f"--pick {' '.join(words)}: expected best, knee, or smallest-within with the allowed loss of the metric, for "
        "instance smallest-within 0.01"
    )


def seed_count(text: str) -> int:
    """Parse `--seeds`.

    Args:
        text: The value.

    Raises:
        argparse.ArgumentTypeError: If the value is not a number from 1 to 100.
    """
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 100):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to 100, got {text!r}")
    return int(text)


def worker_count(text: str) -> int | None:
    """Parse `--workers`.

    Args:
        text: The value.

    Returns:
        The number of workers; None for automatic.

    Raises:
        argparse.ArgumentTypeError: If the value is neither `auto` nor a number.
    """
    if text == "auto":
        return None
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"expected auto or a whole number of at least 0, got {text!r}")
    return int(text)
