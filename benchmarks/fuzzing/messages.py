"""A parser of error messages: whether a message names file, key or row, the shortened value, and what is allowed."""

import re
from collections.abc import Sequence

MAX_LINE = 600
"""Characters of a line; longer ones hold a value that was not shortened."""

_INTERNAL = re.compile(
    r"Traceback|<class |object at 0x|\b(Key|Type|Attribute|Index|Recursion|Overflow|Assertion)Error\b"
)
_PLACE = re.compile(
    r"""(?:^|[\s'"(])(?:\.{0,2}/|package:|[\w.-]+/)[^\s:]+   # a path or a hub name
    | (?:^|\s)/(?=:)   # the root
    | \b[\w-]+\.(?:ya?ml|json|jsonl|csv|tsv|zip|png|jpg|webp|safetensors|pt|log|txt|parquet|db|npy|md)\b
    | (?:^|\s)--[a-z-]+ | \b(?:row|line|image|column|entry|trial|layer|text)s?\s+['"]?\w+
    | ^\s*-\s(?:[\w.\[\]-]|'[^']*'|"[^"]*")+:""",
    re.VERBOSE,
)
_WHOLE_FILE = re.compile(r"\s*- (?:the file|is|has|holds|contains|cannot be)\b")
_ALLOWED = re.compile(
    r"expected|\bat (?:least|most)\b|must|choose|\buse\b|\brun\b|search in a new|export it again|give\b|set\b|lower\b|"
    r"free some|remove|allowed|resume|needs|did you mean|invalid choice",
    re.IGNORECASE,
)
_WITHOUT_VALUE = re.compile(
    r"missing|no such|cannot be|damaged|is empty|not a |is not valid|holds no|holds a|unknown|is a |are |differ|"
    r"too (?:large|deep|long|many|small)|nested|changed|does not|has no|have|no |lacks|needs|twice|duplicate|another|"
    r"not even|pointer|loop|both|given",
    re.IGNORECASE,
)
_VALUE = re.compile(r"\bgot\b|'[^']*'|\"[^\"]*\"|\d")


def why_unclear(message: str) -> str | None:
    """Return what a message lacks; None if it is clear.

    Args:
        message: Everything that a command wrote on standard error, when it ended with status 2.
    """
    lines = [line for line in message.splitlines() if line.strip()]
    starts = [index for index, line in enumerate(lines) if re.match(r"(?:[\w.]+ [\w.]+: )?error: ", line)]
    if len(starts) != 1:
        return f"{len(starts)} messages that begin with 'error:'; expected one"
    error = lines[starts[0] :]
    # Each problem in a list is a message of its own; the file is in the heading.
    problems = [line for line in error[1:] if line.lstrip().startswith("- ")] or [" ".join(error)]
    lacks = (_lack_of(line.strip(), hint=error[-1]) for line in problems)
    return _unfit_text(message, error) or next((lack for lack in lacks if lack is not None), None)


def _unfit_text(message: str, error: Sequence[str]) -> str | None:
    """Return what no message may have: words of the implementation, long lines, control characters."""
    if found := _INTERNAL.search(message):
        return f"a word of the implementation: {found[0]!r}"
    for line in error:
        if len(line) > MAX_LINE:
            return f"a line of {len(line)} characters"
        if not line.isprintable():
            return f"an unprintable character in {line[:80]!r}"
    return None if _PLACE.search(error[0]) else "no file, option, key or row"


def _lack_of(problem: str, *, hint: str) -> str | None:
    """Return what one problem lacks."""
    if not _PLACE.search(problem) and not _WHOLE_FILE.match(problem):
        return f"no file, key or row in {problem[:80]!r}"
    if not _ALLOWED.search(problem) and not _ALLOWED.search(hint):
        return f"not what is allowed in {problem[:80]!r}"
    if not _VALUE.search(problem) and not _WITHOUT_VALUE.search(problem):
        return f"no value in {problem[:80]!r}"
    return None
