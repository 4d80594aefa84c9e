"""Pictures with titles and keywords, as their authors published them, from packages of fixed versions.

Names of folders, files of drawings and categories of a package are not used, only titles, names and keywords.
"""

import io
import json
import re
import tarfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.suite.packages import OPENCLIPART_SVG, Package, debian_package, npm_package
from demo.build_data import COLLECTION_TITLE, HERE, fold
from demo.clipart_package import LIBRARY, PACKAGES, RENDER_SIZE, ClipArt, read_library, render_all, unpack_packages
from demo.pretrain_image_encoder import EMOJI_FONT, STARS_KEPT, emoji
from nas.common.errors import DataError

Picture = NDArray[np.uint8]
"""RGB on white, (128, 128, 3)."""

OPENCLIPART_PNG = Package(
    "openclipart-png",
    "1:0.18+dfsg-19",
    "openclipart-png_*.deb",
    "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
)
NOTO_EMOJI = Package(
    "fonts-noto-color-emoji",
    "2.042-0+deb12u1",
    "fonts-noto-color-emoji_*.deb",
    "a5ab0f69c7938423862320d9aca5dd187b3fd879d6a9a57dd52e17c3fa8d2751",
)
EMOJIBASE = Package(
    "emojibase-data",
    "17.0.0",
    "emojibase-data-*.tgz",
    "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
)
TWEMOJI = Package(
    "@twemoji/svg",
    "15.0.0",
    "twemoji-svg-*.tgz",
    "1d2907557a422c7c4e3feca50ef915c39da1db3d76b4a4d7e73fb59bce4403c3",
)
FLUENT_EMOJI = Package(
    "@iconify-json/fluent-emoji-flat",
    "1.2.6",
    "iconify-json-fluent-emoji-flat-*.tgz",
    "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
)
PHOSPHOR = Package(
    "@phosphor-icons/core",
    "2.1.1",
    "phosphor-icons-core-*.tgz",
    "313332be6190b724da24107addd781799b48bf76b13963f24501112ffe1baadd",
)
MATERIAL = Package(
    "@mdi/svg",
    "7.4.47",
    "mdi-svg-*.tgz",
    "de92e5dc9ce46c392ab5c53aa7190b19f82b40cb48872a083f788c7e13e91fef",
)

_INK = (0.15, 0.75)
"""The range of a colour's channels, for icons without colour: dark enough on white."""


@dataclass(frozen=True)
class Pair:
    """The texts of a picture.

    Args:
        key: Pictures with equal keys show the same thing, for instance one emoji in two fonts.
        title: The title or name; "" if there is none.
        keywords: Keywords, tags and further names.
        source: The name of the source.
    """

    key: str
    title: str
    keywords: tuple[str, ...]
    source: str


Found = Iterator[tuple[Pair, Picture]]


@dataclass(frozen=True)
class Source:
    """Packages with pictures and texts.

    Args:
        name: The name.
        licence: The licence of the pictures and of the texts.
        debian: Debian packages.
        npm: Packages of the npm registry.
        read: Yields what a folder of packages has; work files go to a second folder.
    """

    name: str
    licence: str
    debian: tuple[Package, ...]
    npm: tuple[Package, ...]
    read: Callable[[Path, Path], Found]

    @property
    def packages(self) -> tuple[Package, ...]:
        """All packages."""
        return self.debian + self.npm

    def download(self, folder: Path) -> None:
        """Download the packages that are not in a folder, and check all of them.

        Raises:
            DataError: If a download fails, or the content is another.
        """
        for package in self.debian:
            debian_package(package, folder)
        for package in self.npm:
            npm_package(package, folder)


def plain(text: str) -> str:
    """Return a name without hyphens and underscores, and with single spaces."""
    return " ".join(re.sub(r"[-_\s]+", " ", text).split())


def read_tar(archive: Path, pattern: str) -> dict[str, bytes]:
    """Return the files of a compressed archive whose paths match a pattern, by what its group matches.

    Raises:
        DataError: If no file matches.
    """
    found = {}
    with tarfile.open(archive) as opened:
        for member in opened:
            matched = re.fullmatch(pattern, member.name)
            if matched and (file := opened.extractfile(member)):
                found[matched.group(1)] = file.read()
    if not found:
        raise DataError(f"{archive}: no file matches {pattern}")
    return found


def rasterize(svg: str) -> Picture:
    """Return an SVG drawing as a square on white; needs the PyPI package `resvg-py`."""
    png = import_module("resvg_py").svg_to_bytes(
        svg_string=svg, width=RENDER_SIZE, height=RENDER_SIZE, background="white", skip_system_fonts=True
    )
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture.convert("RGB"), dtype=np.uint8)


def coloured(svg: str, name: str) -> str:
    """Return an icon without colours in a dark colour, which follows from its name."""
    rng = np.random.default_rng(list(name.encode()))
    dark, bright = _INK
    ink = "".join(f"{round(255 * channel):02x}" for channel in rng.uniform(0, bright, 3) * rng.uniform(dark, 1))
    return svg.replace("<svg ", f'<svg style="fill:#{ink};color:#{ink}" ', 1)


def read_openclipart(folder: Path, work: Path) -> Found:
    """Yield the drawings that pretraining may see (`demo/data/held_out.txt` lists the others)."""
    unpack_packages(PACKAGES, folder, work / "openclipart")
    held_out = set((HERE / "data" / "held_out.txt").read_text(encoding="utf-8").split("\n"))
    drawings = [drawing for drawing in read_library(work / "openclipart") if drawing.source not in held_out]
    stars = [drawing.source for drawing in drawings if drawing.source.startswith("shapes/stars/")]
    crowd = set(stars) - set(stars[::STARS_KEPT])
    drawings = [drawing for drawing in drawings if drawing.source not in crowd]
    titles = Counter(drawing.title for drawing in drawings)
    png = work / "openclipart" / LIBRARY / "png"
    squares = render_all([png / drawing.source for drawing in drawings], work / "openclipart_128.npy")
    for drawing, square in zip(drawings, squares, strict=True):
        title = plain(drawing.title) if titles[drawing.title] <= COLLECTION_TITLE else ""
        yield Pair(drawing.source, title, own_keywords(drawing), "openclipart"), square


def own_keywords(drawing: ClipArt) -> tuple[str, ...]:
    """Return the keywords of a drawing without the name of its author, which is often cut off."""
    author = fold(plain(drawing.author))
    words = dict.fromkeys(plain(word) for word in drawing.keywords)
    return tuple(
        word for word in words if word and word != "unsorted" and not (author and author.startswith(fold(word)))
    )


def read_emoji_names(folder: Path) -> dict[str, Pair]:
    """Return name and keywords of every emoji by its code points, in lower case and without variation selectors."""
    (content,) = read_tar(_archive(EMOJIBASE, folder), "package/(en/data.json)").values()
    found = {}
    for entry in json.loads(content):
        if "group" in entry:
            code = code_points(entry["hexcode"])
            found[code] = Pair(code, plain(entry["label"]), tuple(map(plain, entry.get("tags", ()))), "")
    return found


def code_points(hexadecimal: str) -> str:
    """Return the code points of an emoji in lower case, without variation selectors."""
    return "-".join(part for part in hexadecimal.lower().split("-") if part != "fe0f")


def read_noto_emoji(folder: Path, work: Path) -> Found:
    """Yield the emoji of the Noto font that have one code point."""
    names = read_emoji_names(folder)
    unpack_packages([NOTO_EMOJI.name], folder, work / "noto")
    for square, name in emoji(work / "noto" / EMOJI_FONT):
        pair = names.get(f"{ord(unicodedata.lookup(name.upper())):x}") if name else None
        if pair:
            yield _named(pair, "noto-emoji"), np.asarray(square, dtype=np.uint8)


def read_twemoji(folder: Path, work: Path) -> Found:  # noqa: ARG001  # a reader
    """Yield Twitter's emoji, without those of other skin colours."""
    names = read_emoji_names(folder)
    for code, content in read_tar(_archive(TWEMOJI, folder), r"package/([\da-f-]+)\.svg").items():
        if pair := names.get(code_points(code)):
            yield _named(pair, "twemoji"), rasterize(content.decode())


def read_fluent_emoji(folder: Path, work: Path) -> Found:  # noqa: ARG001  # a reader
    """Yield Microsoft's emoji, without those of other skin colours."""
    names = read_emoji_names(folder)
    files = read_tar(_archive(FLUENT_EMOJI, folder), r"package/(chars|icons)\.json")
    icons: Mapping[str, Any] = json.loads(files["icons"])
    side = icons.get("height", 32)
    for code, name in json.loads(files["chars"]).items():
        pair, icon = names.get(code_points(code)), icons["icons"].get(name)
        if pair and icon:
            head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side} {side}">'
            yield _named(pair, "fluent-emoji"), rasterize(f"{head}{icon['body']}</svg>")


def read_phosphor(folder: Path, work: Path) -> Found:  # noqa: ARG001  # a reader
    """Yield the icons in two shades, with their tags."""
    archive = _archive(PHOSPHOR, folder)
    (catalogue,) = read_tar(archive, r"package/(dist/icons\.d\.ts)").values()
    tags = {}
    for name, listed in re.findall(
        r'readonly name: "([^"]*)".*?readonly tags: readonly \[(.*?)\]', catalogue.decode(), re.S
    ):
        tags[name] = tuple(plain(tag) for tag in re.findall(r'"([^"*]+)"', listed))
    for name, content in read_tar(archive, r"package/assets/duotone/(.*)-duotone\.svg").items():
        if name in tags:
            pair = Pair(f"phosphor:{name}", plain(name), tags[name], "phosphor")
            yield pair, rasterize(coloured(content.decode(), name))


def read_material(folder: Path, work: Path) -> Found:  # noqa: ARG001  # a reader
    """Yield the icons that are no trade mark and no outline or variant of another, with their other names and tags."""
    archive = _archive(MATERIAL, folder)
    (listed,) = read_tar(archive, r"package/(meta\.json)").values()
    drawings = read_tar(archive, r"package/svg/(.*)\.svg")
    for entry in json.loads(listed):
        name = entry["name"]
        base = re.sub(r"-(outline|variant)(-.*)?$", "", name)
        if entry["deprecated"] or "Brand / Logo" in entry["tags"] or (base != name and base in drawings):
            continue
        tags = (tag.lower() for joined in entry["tags"] for tag in re.split(r"[/+]", joined))
        words = dict.fromkeys(plain(word) for word in (*entry["aliases"], *tags))
        pair = Pair(f"material:{name}", plain(name), tuple(words), "material")
        yield pair, rasterize(coloured(drawings[name].decode(), name))


def _named(pair: Pair, source: str) -> Pair:
    return Pair(pair.key, pair.title, pair.keywords, source)


def _archive(package: Package, folder: Path) -> Path:
    """Return the file of a package in a folder.

    Raises:
        DataError: If it is not there.
    """
    found = package.find(folder)
    if found is None:
        raise DataError(f"{folder}: no file {package.file_name}; expected {package.name} {package.version}")
    return found


SOURCES: Iterable[Source] = (
    Source("openclipart", "public domain", (OPENCLIPART_PNG, OPENCLIPART_SVG), (), read_openclipart),
    Source("noto-emoji", "SIL OFL 1.1; names: MIT, Unicode 3.0", (NOTO_EMOJI,), (EMOJIBASE,), read_noto_emoji),
    Source("twemoji", "CC BY 4.0 (package: MIT); names: MIT, Unicode 3.0", (), (TWEMOJI, EMOJIBASE), read_twemoji),
    Source("fluent-emoji", "MIT; names: MIT, Unicode 3.0", (), (FLUENT_EMOJI, EMOJIBASE), read_fluent_emoji),
    Source("phosphor", "MIT", (), (PHOSPHOR,), read_phosphor),
    Source("material", "Apache 2.0", (), (MATERIAL,), read_material),
)
"""All sources; the first is of the same library as the demo."""
