"""The storage backends of this package: one line per URL scheme."""

from nas.storage.registry import JOURNAL_BACKEND, register_storage_backend


def register() -> None:
    """Register all built-in storage backends."""
    register_storage_backend(JOURNAL_BACKEND, storage="nas.storage.journal_storage:JournalFileStorage")
    register_storage_backend("sqlite", storage="nas.storage.database_storage:DatabaseStorage")
    register_storage_backend("postgresql", storage="nas.storage.database_storage:DatabaseStorage")
    register_storage_backend("mysql", storage="nas.storage.database_storage:DatabaseStorage")
    register_storage_backend("mariadb", storage="nas.storage.database_storage:DatabaseStorage")
