"""The command `clean`: show abandoned caches and runs, and delete them after a question."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

from nas.common.errors import ArgumentError, NasError
from nas.common.files import default_cache_directory
from nas.common.output import complain, visible
from nas.common.units import format_bytes, parse_seconds
from nas.run.leftovers import Leftover, delete, find_caches, find_runs
from nas.run.tables import text_table

_RUN_AGE = "30d"
"""The age from which a run that was stopped counts as abandoned: it might be continued."""


def _ask(question: str) -> str:
    """Show a question on standard error, which leaves standard output to the JSON, and read the answer."""
    sys.stderr.write(question)
    sys.stderr.flush()
    return sys.stdin.readline()


def clean(options: argparse.Namespace, ask: Callable[[str], str] = _ask) -> int:
    """Show what can be deleted, ask, and delete it.

    Args:
        options: The parsed arguments of the command.
        ask: Function that shows a question and returns the line of the answer.

    Returns:
        The exit status: 2 if something could not be deleted, or nothing was because there is no terminal to ask on.

    Raises:
        NasError: If an argument is wrong.
        OSError: If a folder cannot be read.
    """
    now = time.time()
    found = _found(options, now)
    chosen = [entry for entry in found if entry.kind != "unknown cache" or options.unknown]
    if not options.json:
        _show(found, chosen, now)
    status = 0
    deleted: list[Leftover] = []
    if chosen and not options.dry_run:
        if options.yes or _agrees(chosen, ask):
            deleted, status = _delete_all(chosen)
        elif not sys.stdin.isatty():
            complain("error: nothing was deleted: there is no terminal to ask on; expected --yes or --dry-run")
            status = 2
    if options.json:
        values = [{**asdict(entry), "path": str(entry.path), "deleted": entry in deleted} for entry in found]
        print(json.dumps({"leftovers": values}, indent=2))
    elif deleted:
        print(f"Deleted: {_summary(deleted)}")
    return status


def _found(options: argparse.Namespace, now: float) -> list[Leftover]:
    """Return the leftovers of sufficient age, the largest first."""
    try:
        ages = {kind: parse_seconds(options.older_than or age) for kind, age in (("cache", "0s"), ("run", _RUN_AGE))}
    except ValueError as error:
        raise ArgumentError(f"--older-than {options.older_than}: {error}") from error
    cache = options.cache_dir or default_cache_directory()
    found = [*find_caches(cache), *find_runs(options.folder)]
    old = [entry for entry in found if now - entry.changed >= ages["run" if entry.kind == "run" else "cache"]]
    return sorted(old, key=lambda entry: (-entry.size, entry.path))


def _show(found: Sequence[Leftover], chosen: Sequence[Leftover], now: float) -> None:
    if not found:
        print("Nothing to delete")
        return
    rows = [
        (entry.kind, format_bytes(entry.size), _age(now - entry.changed), entry.reason, str(entry.path))
        for entry in found
    ]
    print(visible(text_table(("kind", "size", "age", "why", "folder"), rows)))
    print(f"To delete: {_summary(chosen)}")
    if len(chosen) < len(found):
        others = [entry for entry in found if entry not in chosen]
        print(f"Kept, because it is not known whether a run uses them (--unknown deletes them): {_summary(others)}")


def _summary(entries: Sequence[Leftover]) -> str:
    """Return the number of folders and their size: `3 folders, 1.20 GiB`."""
    if not entries:
        return "nothing"
    plural = "" if len(entries) == 1 else "s"
    return f"{len(entries)} folder{plural}, {format_bytes(sum(entry.size for entry in entries))}"


def _age(seconds: float) -> str:
    days, hours = divmod(max(int(seconds // 3600), 0), 24)
    return f"{days}d" if days else f"{hours}h"


def _agrees(chosen: Sequence[Leftover], ask: Callable[[str], str]) -> bool:
    """Return whether the user agrees; False without a terminal, where no question is shown."""
    if not sys.stdin.isatty():
        return False
    return ask(f"Delete {_summary(chosen)}? [y/N] ").strip().lower() in ("y", "yes")


def _delete_all(chosen: Sequence[Leftover]) -> tuple[list[Leftover], int]:
    """Delete what can be deleted; return it, and the exit status."""
    deleted, status = [], 0
    for entry in chosen:
        try:
            delete(entry)
        except (NasError, OSError) as error:
            complain(f"error: {error if isinstance(error, NasError) else f'{entry.path}: {error.strerror or error}'}")
            status = 2
        else:
            deleted.append(entry)
    return deleted, status
