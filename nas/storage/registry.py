"""Storage backends by the scheme of their URLs."""

from collections.abc import Callable
from pathlib import Path

from nas.common.errors import StudyError
from nas.common.registry import Registry, load_object
from nas.storage.base import StudyStorage
from nas.storage.urls import EXAMPLES, redacted_url

JOURNAL_BACKEND = "journal"
"""The backend of runs without a URL: a file in the run directory."""

_BACKENDS: Registry[str] = Registry(
    "storage backend", builtins="nas.storage.register:register", entry_points="pmf_nas.storage_backends"
)


def register_storage_backend(scheme: str, *, storage: str) -> None:
    """Register a storage backend.

    Args:
        scheme: The scheme of its URLs (`sqlite` for `sqlite:///study.db`).
        storage: The subclass of `nas.storage.base.StudyStorage`, as `package.module:Name`.

    Raises:
        ExtensionError: If the scheme is registered already.
    """
    _BACKENDS.register(scheme, storage)


def open_storage(directory: Path, url: str | None, name: str, note: Callable[[str], object]) -> StudyStorage:
    """Open the storage of a run.

    Args:
        directory: The run directory.
        url: The URL of the storage; None for the journal in the run directory.
        name: The name of the run.
        note: Callback that receives a line of text before something that takes long.

    Raises:
        StudyError: If the storage cannot be used, or another driver has it.
        OSError: If the journal cannot be read or written.
    """
    scheme = JOURNAL_BACKEND
    if url is not None:
        scheme, separator, _ = url.partition(":")
        scheme = scheme.partition("+")[0]  # postgresql+psycopg2
        if not separator:
            raise StudyError(
                f"--storage {redacted_url(url)}: not the URL of a database; expected for example {EXAMPLES}"
            )
        if scheme not in _BACKENDS or scheme == JOURNAL_BACKEND:
            known = ", ".join(entry for entry in _BACKENDS if entry != JOURNAL_BACKEND)
            raise StudyError(
                f"--storage {redacted_url(url)}: unknown kind of database; expected one of {known}, for example "
                f"{EXAMPLES}"
            )
    backend: Callable[[Path, str | None, str, Callable[[str], object]], StudyStorage] = load_object(_BACKENDS[scheme])
    return backend(directory, url, name, note)
