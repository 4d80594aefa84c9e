"""The storage backends of this package: one line per URL scheme."""

from nas.storage.backends.registry import JOURNAL_BACKEND, register_storage_backend


def register() -> None:
    """Register all built-in storage backends."""
    register_storage_backend(JOURNAL_BACKEND, storage="nas.storage.backends.journal:JournalFileStorage")
    register_storage_backend("sqlite", storage="nas.storage.backends.database:DatabaseStorage")
    register_storage_backend("postgresql", storage="nas.storage.backends.database:DatabaseStorage")
    register_storage_backend("mysql", storage="nas.storage.backends.database:DatabaseStorage")
    register_storage_backend("mariadb", storage="nas.storage.backends.database:DatabaseStorage")
