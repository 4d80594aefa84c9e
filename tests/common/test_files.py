import errno
from pathlib import Path

import pytest
import torch

from nas.common import torch_files
from nas.common.files import replace_atomically, write_atomically


def test_a_written_file_has_the_new_content_and_no_temporary_file_remains(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_content_and_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail() -> None:
        with replace_atomically(path) as temporary:
            temporary.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as raised:
        fail()
    assert raised.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="requires /dev/full")
def test_a_full_disk_is_an_os_error_for_torch_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.pt"
    torch_files.save(path, {"weight": torch.ones(3)})
    monkeypatch.setattr("nas.common.files.uuid.uuid4", lambda: type("Fixed", (), {"hex": "fixed"}))
    (tmp_path / ".weights.pt.fixed").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as raised:
        torch_files.save(path, {"weight": torch.zeros(100_000)})
    assert raised.value.filename == str(path)
    assert torch.equal(torch.load(path)["weight"], torch.ones(3))
