"""Grocery pairs: does a product description belong to a photograph?

Source: the Grocery Store Dataset (Klasson, Zhang and Kjellström, WACV 2019; MIT licence), public repository
marcusklasson/GroceryStoreDataset: photographs of 81 products, and a description of each. Splits are the original ones.
Every photograph occurs twice: with its own description (yes), and with that of another product of the same group,
fruit, packages or vegetables (no). Within a split and a group, every description occurs as often in a `no` as in a
`yes` pair: photographs in pairs of different products exchange their descriptions. So neither the text nor the picture
alone reveals the answer. Where the number of photographs is odd, one is left out.

The source is a clone of the repository, or a folder with `pairs.csv` (image, text, label, split) and `images.zip`,
whose pairs are taken as they are. Photographs become squares of 112 pixels. The bar form has 2,400 / 588 / 2,000
pairs.

Run: python -m benchmarks.suite.grocery --source DIR [--output DIR] [--form bar|whole]
"""

import argparse
import csv
import io
import random
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from PIL import Image

from benchmarks.suite.data_set import (
    DataSet,
    Sample,
    encoded_photograph,
    required,
    squared,
    write_data_set,
)
from nas.common.errors import DataError

SIZE = 112
BAR_PHOTOGRAPHS = {"train": 1200, "validation": 294, "test": 1000}
_FILES = {"train": "train.txt", "validation": "val.txt", "test": "test.txt"}
_SEED = 0
_YES, _NO = ("yes",), ("no",)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, metavar="DIR", help="clone of the repository, or a folder with pairs")
    parser.add_argument("--output", type=Path, default=Path("runs") / "suite" / "grocery", metavar="DIR")
    parser.add_argument("--form", choices=("bar", "whole"), default="whole")
    options = parser.parse_args()
    try:
        print(build(options.output, options.source, options.form).manifest)
    except DataError as error:
        raise SystemExit(f"error: {error}") from error


def build(directory: Path, source: Path | None, form: str) -> DataSet:
    """Build the task.

    Args:
        directory: The folder of the data set.
        source: A clone of the repository, or a folder with pairs.csv and images.zip.
        form: whole or bar.

    Raises:
        DataError: If the source has neither form.
    """
    if source is None:
        raise DataError(
            "grocery: no --source; expected a clone of GroceryStoreDataset, or its pairs.csv and images.zip"
        )
    if (source / "pairs.csv").exists():
        samples = read_pairs(source / "pairs.csv")
        opened = _from_archive(required(source / "images.zip", "the photographs of pairs.csv"))
    else:
        root = required(source / "dataset", "a clone of GroceryStoreDataset, or a folder with pairs.csv and images.zip")
        samples, opened = pairs_of_clone(root), _from_folder(root)
    if form == "bar":
        samples = bar_form(samples)
    names = dict.fromkeys(sample.image for sample in samples)
    return write_data_set(directory, samples, {name: encoded_photograph(squared(opened(name), SIZE)) for name in names})


def read_pairs(path: Path) -> list[Sample]:
    """Return the pairs of a file."""
    with path.open(newline="", encoding="utf-8") as file:
        return [Sample(row["image"], row["text"], (row["label"],), row["split"]) for row in csv.DictReader(file)]


def pairs_of_clone(root: Path) -> list[Sample]:
    """Return the pairs of all photographs.

    Args:
        root: The folder `dataset` of the repository.

    Raises:
        DataError: If a product has no description, or more than half of the photographs of its group.
    """
    texts = read_descriptions(root)
    rng = random.Random(_SEED)
    samples = []
    for split, file in _FILES.items():
        groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
        lines = required(root / file, "the photographs of a split").read_text(encoding="utf-8").splitlines()
        for image, product, _ in (line.split(", ") for line in lines if line.strip()):
            groups[image.split("/")[1]].append((image, product))
        for group, photographs in sorted(groups.items()):
            own = [(image, texts[int(product)]) for image, product in _by_product(photographs, rng)]
            for (image, text), (_, other) in zip(own, _rotated(own, f"{split}/{group}"), strict=True):
                samples += [Sample(image, text, _YES, split), Sample(image, other, _NO, split)]
    return samples


def read_descriptions(root: Path) -> dict[int, str]:
    """Return the description of every product, by its number in the file `classes.csv`."""
    with required(root / "classes.csv", "the products").open(newline="", encoding="utf-8") as file:
        paths = {int(row["Class ID (int)"]): row["Product Description Path (str)"] for row in csv.DictReader(file)}
    return {
        product: " ".join(required(root / path.lstrip("/"), "a description").read_text(encoding="utf-8").split())
        for product, path in paths.items()
    }


def _by_product(photographs: Iterable[tuple[str, str]], rng: random.Random) -> list[tuple[str, str]]:
    """Return an even number of photographs sorted by product; products, and the photographs of each, in random order.

    One of the most frequent product is left out if the number is odd.
    """
    of_product: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for image, product in photographs:
        of_product[product].append((image, product))
    order = sorted(of_product)
    rng.shuffle(order)
    for members in of_product.values():
        rng.shuffle(members)
    if sum(map(len, of_product.values())) % 2:
        max(of_product.values(), key=len).pop()
    return [photograph for product in order for photograph in of_product[product]]


def _rotated(own: list[tuple[str, str]], where: str) -> list[tuple[str, str]]:
    """Rotate a list by half of its length.

    Photographs sorted by product exchange their descriptions this way, and get that of another product, unless a
    product has more than half of them.
    """
    half = len(own) // 2
    rotated = own[half:] + own[:half]
    if any(text == other for (_, text), (_, other) in zip(own, rotated, strict=True)):
        raise DataError(f"{where}: a product has more than half of the {len(own)} photographs; expected fewer")
    return rotated


def bar_form(samples: Iterable[Sample]) -> list[Sample]:
    """Return both pairs of a random selection of photographs.

    Raises:
        DataError: If there are too few photographs.
    """
    rng = random.Random(_SEED)
    pairs: dict[str, dict[str, list[Sample]]] = {split: defaultdict(list) for split in BAR_PHOTOGRAPHS}
    for sample in samples:
        pairs[sample.split][sample.image].append(sample)
    chosen: list[Sample] = []
    for split, count in BAR_PHOTOGRAPHS.items():
        if len(pairs[split]) < count:
            raise DataError(f"grocery: {split}: expected {count} photographs for the bar form, got {len(pairs[split])}")
        for image in rng.sample(sorted(pairs[split]), count):
            chosen += pairs[split][image]
    return chosen


def _from_archive(path: Path) -> Callable[[str], Image.Image]:
    archive = zipfile.ZipFile(path)

    def open_photograph(name: str) -> Image.Image:
        return Image.open(io.BytesIO(archive.read(name)))

    return open_photograph


def _from_folder(root: Path) -> Callable[[str], Image.Image]:
    return lambda name: Image.open(required(root / name, "a photograph"))


if __name__ == "__main__":
    main()
