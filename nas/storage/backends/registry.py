"""Storage backends by the scheme of their URLs."""

from nas.common.registry import Registry

JOURNAL_BACKEND = "journal"
"""The backend of runs without a URL: a file in the run directory."""

STORAGE_BACKENDS: Registry[str] = Registry(
    "storage backend", builtins="nas.storage.register:register", entry_points="pmf_nas.storage_backends"
)


def register_storage_backend(scheme: str, *, storage: str) -> None:
    """Register a storage backend.

    Args:
        scheme: The scheme of its URLs (`sqlite` for `sqlite:///study.db`).
        storage: The subclass of `nas.storage.backends.base.StudyStorage`, as `package.module:Name`.

    Raises:
        ExtensionError: If the scheme is registered already.
    """
    STORAGE_BACKENDS.register(scheme, storage)
