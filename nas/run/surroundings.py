"""Check everything outside the search file before anything that takes long, and before anything is written."""

from pathlib import Path

from nas.common.boundary import reason_of
from nas.common.devices import check_kind
from nas.common.errors import ExecutionError
from nas.common.files import check_writable
from nas.execution.cluster_address import check_cluster
from nas.execution.limits import check_limits
from nas.execution.temporary_place import temporary_place
from nas.run.executors import ExecutionOptions
from nas.run.loggers.base import check_loggers
from nas.storage.backends.open import check_storage


def check_surroundings(options: ExecutionOptions, storage: str | None) -> None:
    """Check that a search can write its features, reach its database and start its workers.

    Args:
        options: The workers, the cluster and the cache directory.
        storage: The URL of the database of the study; None for the journal in the run directory.

    Raises:
        NasError: If it cannot.
    """
    check_loggers(options.log_to)
    check_limits(uses_ray=options.worker_count != 0)
    if options.worker_count == 0:
        _ = options.own_device
    else:
        check_kind(options.device)
    _check_cache(options.cache)
    if storage is not None:
        check_storage(storage)
    if options.worker_count == 0:
        return
    if options.ray_address is None:
        temporary_place()
    else:
        check_cluster(options.ray_address)


def _check_cache(cache: Path) -> None:
    try:
        check_writable(cache)
    except OSError as error:
        place = "" if error.filename == str(cache) else f"{error.filename} "
        raise ExecutionError(
            f"cache directory {cache}: {place}cannot be used ({reason_of(error)}); expected a writable directory; "
            "choose one with --cache-dir or XDG_CACHE_HOME"
        ) from error
