"""Rebuild the demo data set from Debian's openclipart packages.

The task is to predict the folder of a drawing from an image of 64x64 pixels and its title. The words of the folder are
removed from the titles, and related drawings (series, the same drawing with and without colour, near-identical images)
are kept in one split, so that a sibling in train cannot inflate scores on validation or test.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import random
import re
import unicodedata
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from PIL import Image

from demo.clipart_package import (
    LIBRARY,
    PACKAGES,
    ClipArt,
    download_packages,
    read_library,
    render_all,
    square_on_white,
    unpack_packages,
)

HERE = Path(__file__).resolve().parent
CLASSES = (
    "animals",
    "buildings",
    "computer",
    "education",
    "electronics",
    "food",
    "geography",
    "office",
    "people",
    "plants",
    "recreation",
    "science",
    "signs_and_symbols",
    "tools",
    "transportation",
)
LEFT_OUT = ("computer/icons/", "shapes/stars/")
CLASS_CAP = 760
SPLITS = {"train": 0.6, "validation": 0.2, "test": 0.2}
SEED = 20
IMAGE_SIZE = 64

LARGE_FAMILY = 8  # larger families are assigned first, as they are hard to place
COLLECTION_TITLE = 20  # outside the task, a title shared by more drawings names a collection

# Two drawings are siblings if they are similar in one of these: the cropped thumbnails in grey and in colour; the
# thumbnails of the whole image (one has an addition at its side); the edges; or the filled outlines and, less strictly,
# the edges (the same drawing with and without colour).
TONE_LIMIT = 0.92
WHOLE_LIMIT = 0.92
EDGE_LIMIT = 0.90
OUTLINE_LIMIT = 0.97
OUTLINE_EDGE_LIMIT = 0.80

STOP_WORDS = {"and", "of", "the", "a", "in", "on", "s"}
# Words that distinguish versions of one drawing, and hence not families.
VERSION_WORDS = frozenset(
    word
    for line in (
        "b w bw black white colo colour color coloured colored grey gray simple outline lineart",
        "red green blue yellow orange purple pink brown cyan magenta gold silver",
        "small large big left right up down open closed copy new old v version ver remix line",
    )
    for word in line.split()
)


@dataclass(frozen=True)
class Item:
    """A row of the manifest."""

    image: str
    text: str
    label: str
    split: str
    family: str
    source: str


class Groups:
    """Disjoint sets (union-find) over the positions of a list."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def find(self, member: int) -> int:
        """Return the representative of the group of `member`."""
        while self._parent[member] != member:
            self._parent[member] = self._parent[self._parent[member]]
            member = self._parent[member]
        return member

    def union(self, first: int, second: int) -> None:
        """Merge the groups of two members."""
        low, high = sorted((self.find(first), self.find(second)))
        self._parent[high] = low

    def union_by(self, keys: Iterable[object]) -> None:
        """Merge the groups of members with equal keys, except keys of None."""
        seen: dict[object, int] = {}
        for member, key in enumerate(keys):
            if key is not None:
                self.union(seen.setdefault(key, member), member)


def fold(text: str) -> str:
    """Return the text in lower case without accents, for comparing words."""
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(c for c in decomposed if not unicodedata.combining(c)).casefold()


def words_of(text: str) -> list[str]:
    """Return the words of a title or file name, split at camelCase, digits and underscores."""
    parted = re.sub(r"(?<=[^\W\d_A-Z])(?=[A-Z])", " ", text)
    return re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d+", parted)


def number_forms(word: str) -> set[str]:
    """Return a word with its English singular and plural forms."""
    forms = {word, word + "s", word + "es"}
    if word.endswith("y"):
        forms.add(word[:-1] + "ies")
    if word.endswith("ies"):
        forms.add(word[:-3] + "y")
    if word.endswith("s") and not word.endswith("ss"):
        forms.add(word[:-1])
        if word.endswith("es"):
            forms.add(word[:-2])
    return forms


def label_words(source: str, label: str) -> set[str]:
    """Return the words that would reveal the label: the folders of the path and all class names."""
    names = [*Path(source).parent.parts, label, *CLASSES]
    words = {fold(word) for name in names for word in words_of(name)} - STOP_WORDS
    return set().union(*(number_forms(word) for word in words if not word.isdigit()))


def clean_title(title: str, source: str, label: str) -> str:
    """Return the title without words that would reveal the label and without trailing numbers."""
    banned = label_words(source, label)
    kept = [word for word in words_of(title) if fold(word) not in banned]
    while kept and kept[-1].isdigit():
        kept.pop()
    return " ".join(kept) if any(len(word) > 1 and not word.isdigit() for word in kept) else ""


def label_of(drawing: ClipArt) -> str | None:
    """Return the class of the folder of a drawing, else the only class of the folders that link to it, else None."""
    kept = [p for p in (drawing.source, *drawing.links) if not p.startswith(LEFT_OUT)]
    if kept and kept[0] == drawing.source and drawing.source.split("/")[0] in CLASSES:
        return drawing.source.split("/")[0]
    classes = {path.split("/")[0] for path in kept} & set(CLASSES)
    return classes.pop() if len(classes) == 1 else None


def _without_author(words: Sequence[str], author: str) -> list[str]:
    """Return the words of a file name without the name of the author at its end, which is often truncated."""
    names = [fold(word) for word in words_of(author)]
    kept = [word for word in words if not word.isdigit()]
    while kept and any(n == fold(kept[-1]) or _begins(n, fold(kept[-1])) for n in names):
        kept.pop()
    return kept


def _begins(name: str, part: str) -> bool:
    return len(part) > 1 and name.startswith(part)


def text_of(drawing: ClipArt, label: str) -> str:
    """Return the cleaned title, or the cleaned file name if the title is empty."""
    text = clean_title(drawing.title, drawing.source, label)
    if text:
        return text
    name = _without_author(words_of(Path(drawing.source).stem), drawing.author)
    return clean_title(" ".join(name), drawing.source, label)


def file_family(drawing: ClipArt) -> str | None:
    """Return a key from the main folder and the file name without numbers, version words and the author."""
    folder = Path(drawing.source).parent
    stem = [fold(word) for word in words_of(Path(drawing.source).stem) if not word.isdigit()]
    plain = [word for word in _without_author(stem, drawing.author) if word not in VERSION_WORDS]
    if len(key := "".join(plain)) >= 3:
        return f"{folder.parts[0]}:{key}"
    # Only the author remains: a numbered series of one author in one folder.
    return f"{folder}:{''.join(stem)}" if stem else None


def title_family(drawing: ClipArt) -> str | None:
    """Return a key from folder, author and title, without numbers and version words.

    The folder is included because many titles name a whole collection of an author.
    """
    title = [fold(word) for word in words_of(drawing.title)]
    plain = [w for w in title if not w.isdigit() and w not in VERSION_WORDS]
    author = "".join(fold(word) for word in words_of(drawing.author))
    if not plain or not author:
        return None
    return f"{Path(drawing.source).parent}:{author}:{' '.join(plain)}"


def _content(square: np.ndarray) -> Image.Image:
    """Return the drawn part of an image, padded to a square, so that margins do not matter."""
    ink: np.ndarray = square.min(axis=2) < 245
    if not ink.any():
        return Image.fromarray(square)
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    part = square[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = part.shape[:2]
    side = max(height, width)
    padded = np.full((side, side, 3), 255, dtype=np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    padded[top : top + height, left : left + width] = part
    return Image.fromarray(padded)


def _filled(ink: np.ndarray) -> np.ndarray:
    """Return the filled outline: all pixels that are not connected to the border through white."""
    outside = np.zeros_like(ink)
    outside[0], outside[-1], outside[:, 0], outside[:, -1] = True, True, True, True
    outside &= ~ink
    while True:
        grown = outside.copy()
        grown[1:] |= outside[:-1]
        grown[:-1] |= outside[1:]
        grown[:, 1:] |= outside[:, :-1]
        grown[:, :-1] |= outside[:, 1:]
        grown &= ~ink
        if (grown == outside).all():
            return ~outside
        outside = grown


def _unit(rows: np.ndarray) -> np.ndarray:
    centred: np.ndarray = rows - rows.mean(axis=1, keepdims=True)
    unit: np.ndarray = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6)
    return unit


def thumbnails(squares: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """Return grey, colour, whole, outline and edge thumbnails of every image, as unit vectors."""
    maps: dict[str, list[np.ndarray]] = defaultdict(list)
    for square in squares:
        content = _content(square)
        colour = content.resize((16, 16), Image.Resampling.BOX)
        medium = content.convert("L").resize((48, 48), Image.Resampling.BOX)
        shade = np.asarray(medium, dtype=np.float32)
        filled = _filled(np.pad(shade < 235, 1))[1:-1, 1:-1]
        down, across = np.gradient(shade)
        edges = np.minimum(np.hypot(down, across), 40.0)
        maps["grey"].append(np.asarray(colour.convert("L"), dtype=np.float32).ravel())
        maps["colour"].append(np.asarray(colour, dtype=np.float32).ravel())
        maps["outline"].append(filled.reshape(24, 2, 24, 2).mean(axis=(1, 3)).ravel())
        maps["whole"].append(
            np.asarray(Image.fromarray(square).resize((16, 16), Image.Resampling.BOX), dtype=np.float32).ravel()
        )
        maps["edges"].append(edges.reshape(24, 2, 24, 2).mean(axis=(1, 3)).ravel())
    return {name: _unit(np.stack(rows).astype(np.float32)) for name, rows in maps.items()}


def alike(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return whether two images show the same drawing, in equal colours or not, for all pairs of two groups, (N, M).

    Args:
        first: The thumbnails of N images.
        second: The thumbnails of M images.
    """
    similarity = {name: rows @ second[name].T for name, rows in first.items()}
    same: np.ndarray = (similarity["grey"] > TONE_LIMIT) & (similarity["colour"] > TONE_LIMIT)
    same |= similarity["whole"] > WHOLE_LIMIT
    same |= similarity["edges"] > EDGE_LIMIT
    same |= (similarity["outline"] > OUTLINE_LIMIT) & (similarity["edges"] > OUTLINE_EDGE_LIMIT)
    return same


def look_alikes(squares: np.ndarray) -> list[tuple[int, int]]:
    """Return the pairs of images that show the same drawing, in equal colours or not."""
    maps = thumbnails(squares)
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(squares), 512):
        first, second = np.nonzero(alike({name: rows[start : start + 512] for name, rows in maps.items()}, maps))
        ordered = start + first < second
        pairs += zip((start + first[ordered]).tolist(), second[ordered].tolist(), strict=True)
    return pairs


def group_drawings(
    drawings: Sequence[ClipArt], labels: Sequence[str | None], pairs: Iterable[tuple[int, int]]
) -> list[int]:
    """Return the representative of the family of every drawing; only drawings of the task are grouped."""
    groups = Groups(len(drawings))
    for key in (file_family, title_family):
        groups.union_by(key(d) if lab else None for d, lab in zip(drawings, labels, strict=True))
    for first, second in pairs:
        if labels[first] and labels[second]:
            groups.union(first, second)
    return [groups.find(member) for member in range(len(drawings))]


def cap_classes(
    chosen: Sequence[int], labels: Sequence[str | None], family: Sequence[int], rng: random.Random
) -> list[int]:
    """Keep at most CLASS_CAP drawings of a class; long series are shortened first."""
    kept: list[int] = []
    for label in CLASSES:
        series: dict[int, list[int]] = defaultdict(list)
        for member in chosen:
            if labels[member] == label:
                series[family[member]].append(member)
        turns: list[tuple[int, float, int]] = []
        for members in series.values():
            rng.shuffle(members)
            turns += [(turn, rng.random(), member) for turn, member in enumerate(members)]
        kept += [member for *_, member in sorted(turns)[:CLASS_CAP]]
    return sorted(kept)


def deal_splits(
    chosen: Sequence[int], labels: Sequence[str | None], family: Sequence[int], rng: random.Random
) -> dict[int, str]:
    """Assign whole families to splits, each to the split that lacks its classes most."""
    families: dict[int, Counter[str]] = defaultdict(Counter)
    totals: Counter[str] = Counter()
    for member in chosen:
        label = labels[member]
        assert label is not None
        families[family[member]][label] += 1
        totals[label] += 1
    wanted = {split: {c: share * totals[c] for c in totals} for split, share in SPLITS.items()}
    target = {split: dict(of_class) for split, of_class in wanted.items()}
    order = sorted(families)
    rng.shuffle(order)
    order.sort(key=lambda f: -n if (n := families[f].total()) > LARGE_FAMILY else 0)
    placed: dict[int, str] = {}
    for name in order:
        counts = families[name]
        large = counts.total() > LARGE_FAMILY

        def lack(split: str, counts: Counter[str] = counts, large: bool = large) -> float:
            scale = totals if large else target[split]
            return sum(n * wanted[split][c] / scale[c] for c, n in counts.items())

        placed[name] = max(SPLITS, key=lack)
        for label, count in counts.items():
            wanted[placed[name]][label] -= count
    return placed


def held_out_sources(
    drawings: Sequence[ClipArt],
    labels: Sequence[str | None],
    family: Sequence[int],
    placed: dict[int, str],
    pairs: Iterable[tuple[int, int]],
) -> list[str]:
    """Return the drawings excluded from pretraining: validation and test, and all drawings related to them."""
    kept_back = {i for i, f in enumerate(family) if labels[i] and placed.get(f, "train") != "train"}
    titles = Counter(title_family(d) for d in drawings)
    file_keys = {file_family(drawings[i]) for i in kept_back} - {None}
    title_keys = {title_family(drawings[i]) for i in kept_back} - {None}
    akin = set(kept_back)
    for first, second in pairs:
        akin |= {second} if first in kept_back else set()
        akin |= {first} if second in kept_back else set()
    for i, drawing in enumerate(drawings):
        title = title_family(drawing)
        same_title = title in title_keys and (labels[i] or titles[title] <= COLLECTION_TITLE)
        if same_title or file_family(drawing) in file_keys:
            akin.add(i)
    return [drawings[i].source for i in sorted(akin)]


def encode(path: Path) -> tuple[str, bytes]:
    """Return suffix and bytes of the small square, as lossless WebP or optimised PNG, whichever is smaller."""
    picture = square_on_white(path, IMAGE_SIZE)
    webp, png = io.BytesIO(), io.BytesIO()
    picture.save(webp, "WEBP", lossless=True, quality=100, method=6)
    picture.save(png, "PNG", optimize=True)
    if len(webp.getvalue()) <= len(png.getvalue()):
        return "webp", webp.getvalue()
    return "png", png.getvalue()


def write_data(items: Sequence[Item], pictures: dict[str, bytes], folder: Path) -> None:
    """Write the manifest and the archive, with fixed dates so that it is reproducible."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "images.zip", "w", zipfile.ZIP_STORED) as archive:
        for item in items:
            entry = zipfile.ZipInfo(item.image, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, pictures[item.image])
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Item.__annotations__)
        writer.writerows(vars(item).values() for item in items)


def build(root: Path, work: Path, folder: Path) -> list[Item]:
    """Build the data set from the unpacked library and write it to `folder`."""
    rng = random.Random(SEED)
    drawings = read_library(root)
    png = root / LIBRARY / "png"
    squares = render_all([png / d.source for d in drawings], work / "openclipart_128.npy")
    labels = [label_of(drawing) for drawing in drawings]
    pairs = look_alikes(squares)
    family = group_drawings(drawings, labels, pairs)

    texts: dict[int, str] = {}
    seen: set[bytes] = set()
    for i, (drawing, label) in enumerate(zip(drawings, labels, strict=True)):
        content = squares[i].tobytes()
        if label is None or content in seen or squares[i].min() > 245:
            continue  # outside the task, an exact duplicate, or blank
        if text := text_of(drawing, label):
            seen.add(content)
            texts[i] = text
    chosen = cap_classes(sorted(texts), labels, family, rng)
    placed = deal_splits(chosen, labels, family, rng)

    rng.shuffle(chosen)  # so that the number of an image does not reveal its class
    with Pool(os.cpu_count() or 1) as pool:
        encoded = pool.map(encode, [png / drawings[i].source for i in chosen], chunksize=16)
    items: list[Item] = []
    pictures: dict[str, bytes] = {}
    small_seen: set[bytes] = set()
    for number, (i, (suffix, data)) in enumerate(zip(chosen, encoded, strict=True)):
        label = labels[i]
        if label is None or data in small_seen:
            continue
        small_seen.add(data)
        image = f"{number:04d}.{suffix}"
        pictures[image] = data
        split, kin = placed[family[i]], f"f{family[i]:04d}"
        items.append(Item(image, texts[i], label, split, kin, drawings[i].source))
    write_data(items, pictures, folder)
    held_out = held_out_sources(drawings, labels, family, placed, pairs)
    (folder / "held_out.txt").write_text("\n".join(held_out) + "\n", encoding="utf-8")
    return items


def main() -> None:
    """Download the packages if needed, build the data set, and print the number of drawings per class and split."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--packages", type=Path, help="folder with the .deb files (default: download them)")
    parser.add_argument("--work", type=Path, default=HERE / "build", help="folder for work files")
    parser.add_argument("--output", type=Path, default=HERE / "data")
    options = parser.parse_args()
    packages = options.packages or options.work / "packages"
    if options.packages is None and not list(packages.glob("openclipart-svg_*.deb")):
        download_packages(PACKAGES, packages)
    unpack_packages(PACKAGES, packages, options.work / "openclipart")
    items = build(options.work / "openclipart", options.work, options.output)

    counts = Counter((item.label, item.split) for item in items)
    print(f"{'class':18}" + "".join(f"{split:>12}" for split in SPLITS))
    for label in CLASSES:
        print(f"{label:18}" + "".join(f"{counts[label, split]:12d}" for split in SPLITS))
    totals = Counter(item.split for item in items)
    print(f"{'all':18}" + "".join(f"{totals[split]:12d}" for split in SPLITS))
    print(f"images.zip: {(options.output / 'images.zip').stat().st_size} bytes")


if __name__ == "__main__":
    main()
