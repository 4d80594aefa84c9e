"""Recognise errors that say that the system grants this process no more memory, threads, open files or file size."""

import errno

_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",  # a plain RuntimeError of torch
    "std::bad_alloc",
    "Cannot allocate memory",
)
_THREADS = ("can't start new thread", "Resource temporarily unavailable", "failed to create thread")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error is a failed allocation, on the host or on a device."""
    # torch.OutOfMemoryError is CUDA's.
    by_name = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    return isinstance(error, MemoryError) or by_name or _mentions(error, _MEMORY)


def shortage(error: BaseException) -> str | None:
    """Return what the system has not granted, with a way out; None if the error has another cause.

    Args:
        error: An exception of any library; those that it was raised from count as well.
    """
    current: BaseException | None = error
    while current is not None:
        if is_out_of_memory(current) or getattr(current, "errno", None) == errno.ENOMEM:
            return "out of memory; free some, raise the limit (ulimit -v), or use fewer --workers"
        if isinstance(current, OSError) and current.errno == errno.EFBIG:
            name = "a file" if current.filename is None else current.filename
            return f"{name}: File too large; raise the limit (ulimit -f), or choose another file system"
        if getattr(current, "errno", None) in (errno.EMFILE, errno.ENFILE):
            return "too many open files; raise the limit (ulimit -n)"
        if getattr(current, "errno", None) == errno.EAGAIN or _mentions(current, _THREADS):
            return "no more processes or threads; raise the limit (ulimit -u), or use fewer --workers"
        current = current.__cause__
    return None


def _mentions(error: BaseException, texts: tuple[str, ...]) -> bool:
    return isinstance(error, RuntimeError | OSError) and any(text in str(error) for text in texts)
