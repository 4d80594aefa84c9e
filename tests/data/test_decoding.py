"""Files are bounded before they are decoded: pictures, archive entries, special files."""

import os
import resource
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas.common.errors import DataError
from nas.data.image_check import image_notes
from nas.data.images import FolderImages, ZipImages, open_images

LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"


def grey_png(path: Path, side: int) -> None:
    """Write a square PNG of 1 bit, all white, in a few kB and without the memory of its pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer = zlib.compressobj(9)
    row = b"\0" + b"\xff" * (-(-side // 8))
    rows = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def test_picture_above_the_allowed_pixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    grey_png(tmp_path / "large.png", 20_000)
    images = open_images(tmp_path)
    with pytest.raises(
        DataError,
        match=r"'large\.png': the picture is too large; expected at most 200,000,000 pixels \(data\.max_pixels\), got "
        "20,000 x 20,000",
    ):
        images.open("large.png")
    assert FolderImages(tmp_path, 5).find_unreadable(["large.png"]) == ["large.png"]


MEASURE = """
import resource, sys, warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nas.data.images import open_images

images = open_images(Path(sys.argv[1]))
images.open("small.png")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with ThreadPoolExecutor(4) as pool:
    sizes = {image.size for image in pool.map(images.open, ["large.png"] * 3)}
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, *sizes, *images.changes)
"""


def test_large_pictures_are_decoded_one_at_a_time_and_reduced(tmp_path: Path) -> None:
    grey_png(tmp_path / "large.png", 9_500)
    Image.new("RGB", (4, 4)).save(tmp_path / "small.png")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stderr == "", "no warning of Pillow either"
    mebibytes, rest = done.stdout.split(maxsplit=1)
    assert int(mebibytes) < 200, "90 MB of grey pixels once, not three times, and the small results"
    assert rest.startswith("(2375, 2375) have more than 16 million pixels")


def test_large_jpeg_is_reduced_while_it_is_decoded(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 6000).astype(np.uint8)
    Image.fromarray(np.broadcast_to(ramp, (4000, 6000))).save(tmp_path / "large.jpg")
    images = open_images(tmp_path)
    image = images.open("large.jpg")
    assert image.size == (3000, 2000)
    assert np.abs(np.asarray(image)[1000, :, 0].astype(int) - ramp[::2]).max() <= 2
    assert images.find_unreadable(["large.jpg"]) == []
    assert image_notes(images)[0].endswith("reduced while they are read: large.jpg")


@pytest.mark.parametrize("size", [(1, 501), (600, 1)])
def test_picture_with_sides_of_too_different_lengths_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size).save(tmp_path / "thin.png")
    with pytest.raises(DataError, match=r"sides differ too much; expected a longer side of at most 500 times"):
        open_images(tmp_path).open("thin.png")


def test_entry_of_an_archive_is_bounded_before_it_is_read(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("zeros.png", "w", force_zip64=True) as entry,
    ):
        for _ in range(48):
            entry.write(bytes(2**20))
    images = ZipImages(tmp_path / "images.zip", max_pixels=4 * 2**20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=r"'zeros\.png': is too large; expected at most 24.00 MiB .*, got 48.00 MiB"):
        images.open("zeros.png")
    with pytest.raises(DataError, match=r"'zeros\.png': is not an image"):
        open_images(tmp_path / "images.zip").open("zeros.png")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * 1024


def test_encrypted_and_ambiguous_entries_are_named(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("twice.png", content)
        archive.writestr("same.png", content)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("twice.png", b"other")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("same.png", content)
        archive.writestr("secret.png", content)
        archive.filelist[-1].flag_bits |= 1
    images = open_images(tmp_path / "images.zip")
    assert images.open("same.png").size == (4, 4)
    with pytest.raises(DataError, match=r"'twice\.png': the archive has several files of this name; expected one"):
        images.open("twice.png")
    with pytest.raises(DataError, match=r"'secret\.png': is encrypted; expected an archive without a password"):
        images.open("secret.png")


@pytest.mark.parametrize("archived", [False, True])
def test_git_lfs_pointer_is_named(tmp_path: Path, archived: bool) -> None:
    (tmp_path / "a.png").write_text(LFS_POINTER)
    location = tmp_path
    if archived:
        location = tmp_path / "images.zip"
        with zipfile.ZipFile(location, "w") as archive:
            archive.write(tmp_path / "a.png", "a.png")
    with pytest.raises(DataError, match=r"'a\.png': is a Git LFS pointer; expected an image; run `git lfs pull`"):
        open_images(location).open("a.png")


def test_archive_that_is_a_git_lfs_pointer_is_named(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_text(LFS_POINTER)
    with pytest.raises(DataError, match=r"images\.zip: is a Git LFS pointer; expected a ZIP file of images; run `git"):
        open_images(tmp_path / "images.zip")


def test_special_files_are_refused_without_being_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "empty.png").touch()
    images = open_images(tmp_path)
    for name, kind in (("pipe", "a named pipe"), ("folder", "a folder"), ("device", "a device")):
        with pytest.raises(DataError, match=rf"{name}\.png: cannot be read; expected an image file, got {kind}"):
            images.open(f"{name}.png")
    with pytest.raises(DataError, match=r"'empty\.png': is empty; expected a file in a format"):
        images.open("empty.png")
    for path in ("pipe.png", "device.png"):
        with pytest.raises(DataError, match="expected a folder or a ZIP file of images, got a"):
            open_images(tmp_path / path)


def test_formats_that_run_other_programs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with pytest.raises(DataError, match=r"'a\.png': has the format EPS, which is not supported; expected a picture"):
        open_images(tmp_path).open("a.png")
