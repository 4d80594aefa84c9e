"""Open the storage of a run with the backend that its URL names."""

from collections.abc import Callable
from pathlib import Path

from nas.common.errors import StudyError
from nas.common.registry import load_object
from nas.storage.backends.base import Access, StudyStorage
from nas.storage.backends.registry import JOURNAL_BACKEND, STORAGE_BACKENDS
from nas.storage.urls import EXAMPLES, redacted_url

_DATABASE = "nas.storage.backends.database"


def open_storage(
    directory: Path, url: str | None, name: str, note: Callable[[str], object], access: Access
) -> StudyStorage:
    """Open the storage of a run.

    Args:
        directory: The run directory.
        url: The URL of the storage; None for the journal in the run directory.
        name: The name of the run.
        note: Callback that receives a line of text before a long operation.
        access: Whether the study is created, must exist, or is only read.

    Raises:
        StudyError: If the storage cannot be used, the study is missing, or another driver has it.
        OSError: If the journal cannot be read or written.
    """
    scheme = JOURNAL_BACKEND if url is None else _scheme(url)
    backend: Callable[[Path, str | None, str, Callable[[str], object], Access], StudyStorage] = load_object(
        STORAGE_BACKENDS[scheme]
    )
    return backend(directory, url, name, note, access)


def check_storage(url: str) -> None:
    """Check that a database can be used, without creating or changing anything.

    Args:
        url: The URL of the database.

    Raises:
        StudyError: If it cannot.
    """
    module = STORAGE_BACKENDS[_scheme(url)].partition(":")[0]
    if module == _DATABASE:  # other backends are checked when they are opened
        check: Callable[[str], None] = load_object(f"{module}:check_database")
        check(url)


def _scheme(url: str) -> str:
    """Return the backend of a URL.

    Raises:
        StudyError: If there is none.
    """
    scheme, separator, _ = url.partition(":")
    scheme = scheme.partition("+")[0]  # postgresql+psycopg2
    if not separator:
        raise StudyError(f"--storage {redacted_url(url)}: not the URL of a database; expected for example {EXAMPLES}")
    if scheme not in STORAGE_BACKENDS or scheme == JOURNAL_BACKEND:
        known = ", ".join(entry for entry in STORAGE_BACKENDS if entry != JOURNAL_BACKEND)
        raise StudyError(
            f"--storage {redacted_url(url)}: unknown kind of database; expected one of {known}, for example {EXAMPLES}"
        )
    return scheme
