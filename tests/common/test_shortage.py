import errno
import os

import pytest

from nas.common.shortage import shortage


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory"),
        (RuntimeError("std::bad_alloc"), "out of memory"),
        (os_error(errno.ENOMEM), "out of memory"),
        (RuntimeError("can't start new thread"), "no more processes or threads"),
        (os_error(errno.EAGAIN), "no more processes or threads"),
        (os_error(errno.EMFILE), "too many open files"),
        (OSError(errno.EFBIG, os.strerror(errno.EFBIG), "/run/supernet.pt"), "/run/supernet.pt: File too large"),
    ],
)
def test_shortage_of_the_system_is_recognised_and_names_a_way_out(error: Exception, expected: str) -> None:
    for found in (error, ValueError("cannot be read")):
        if found is not error:
            found.__cause__ = error
        text = shortage(found)
        assert text is not None and text.startswith(expected) and "ulimit -" in text


def test_other_errors_are_no_shortage() -> None:
    assert shortage(ValueError("min() arg is an empty sequence")) is None
    assert shortage(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert shortage(os_error(errno.ENOSPC)) is None
