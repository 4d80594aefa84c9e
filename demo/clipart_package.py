"""Read the clip-art library of Debian's openclipart packages.

`build_data.py` (the task) and `pretrain_image_encoder.py` (unlabelled images) share the images and their order.
"""

from __future__ import annotations

import html
import os
import re
import subprocess
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from PIL import Image

PACKAGES = ("openclipart-png", "openclipart-svg")
PACKAGE_VERSION = "1:0.18+dfsg-19"
LIBRARY = Path("usr/share/openclipart")
RENDER_SIZE = 128


@dataclass(frozen=True)
class ClipArt:
    """A drawing: its path within the package, links to it from other folders, and its metadata."""

    source: str
    links: tuple[str, ...]
    title: str
    author: str
    keywords: tuple[str, ...]


def download_packages(names: Sequence[str], folder: Path) -> None:
    """Download the current version of Debian packages into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", *names], cwd=folder, check=True)


def unpack_packages(names: Sequence[str], packages: Path, target: Path) -> None:
    """Unpack the .deb files of some packages into `target`, unless that was done before."""
    for name in names:
        marker = target / f".{name}"
        if marker.exists():
            continue
        found = sorted(packages.glob(f"{name}_*.deb"))
        if len(found) != 1:
            raise FileNotFoundError(f"{packages}: expected one {name}_*.deb, got {len(found)}")
        target.mkdir(parents=True, exist_ok=True)
        subprocess.run(["dpkg-deb", "-x", str(found[0]), str(target)], check=True)
        marker.touch()


def _clean(text: str) -> str:
    """Decode (often doubly escaped) entities and collapse whitespace."""
    text = unicodedata.normalize("NFC", html.unescape(html.unescape(text)))
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def read_metadata(svg: Path) -> tuple[str, str, tuple[str, ...]]:
    """Return title, author and keywords of an SVG, matched by pattern since some are not well-formed XML."""
    text = svg.read_text(encoding="utf-8", errors="replace")
    title = re.search(r"<dc:title>([^<]*)</dc:title>", text)
    author = re.search(r"<dc:creator>.*?<dc:title>([^<]*)</dc:title>", text, re.DOTALL)
    words = [_clean(word) for word in re.findall(r"<rdf:li>([^<]*)</rdf:li>", text)]
    return (
        _clean(title.group(1)) if title else "",
        _clean(author.group(1)) if author else "",
        tuple(dict.fromkeys(word for word in words if word and word != "hash")),
    )


def read_library(root: Path) -> list[ClipArt]:
    """Return all drawings, sorted by path; links from other folders do not count as drawings."""
    png = root / LIBRARY / "png"
    svg = root / LIBRARY / "svg"
    links: dict[Path, list[str]] = {}
    for path in sorted(png.rglob("*.png")):
        if path.is_symlink():
            links.setdefault(path.resolve(), []).append(path.relative_to(png).as_posix())
    drawings = []
    for path in sorted(png.rglob("*.png")):
        if path.is_symlink():
            continue
        source = path.relative_to(png).as_posix()
        drawing_svg = svg / Path(source).with_suffix(".svg")
        title, author, keywords = read_metadata(drawing_svg) if drawing_svg.exists() else ("", "", ())
        drawings.append(ClipArt(source, tuple(links.get(path.resolve(), ())), title, author, keywords))
    return drawings


def square_on_white(path: Path, size: int) -> Image.Image:
    """Return the image on white, padded to a centred square and downsampled to `size`."""
    Image.MAX_IMAGE_PIXELS = None  # a few drawings are very large; the source is trusted
    with Image.open(path) as opened:
        picture = opened.convert("RGBA")
    canvas = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    canvas.alpha_composite(picture)
    flat = canvas.convert("RGB")
    scale = size / max(flat.size)
    width, height = (max(1, round(side * scale)) for side in flat.size)
    small = flat.resize((width, height), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (size, size), (255, 255, 255))
    square.paste(small, ((size - width) // 2, (size - height) // 2))
    return square


def _render(path: Path) -> np.ndarray | None:
    try:
        return np.asarray(square_on_white(path, RENDER_SIZE), dtype=np.uint8)
    except (OSError, ValueError, SyntaxError):
        return None


def render_all(paths: Sequence[Path], cache: Path) -> np.ndarray:
    """Return all images as squares, white if unreadable, cached in a work file."""
    if cache.exists():
        kept: np.ndarray = np.load(cache)
        if len(kept) == len(paths):
            return kept
    with Pool(os.cpu_count() or 1) as pool:
        rendered = pool.map(_render, paths, chunksize=16)
    blank = np.full((RENDER_SIZE, RENDER_SIZE, 3), 255, dtype=np.uint8)
    squares = np.stack([blank if square is None else square for square in rendered])
    cache.parent.mkdir(parents=True, exist_ok=True)
    np.save(cache, squares)
    return squares
