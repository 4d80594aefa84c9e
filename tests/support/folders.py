"""Tiny data sets in the formats in which the published ones are distributed."""

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from nas.config.data_schema import DataConfig
from nas.config.load import parse_data


def config_of(reader: str, folder: Path, **values: Any) -> DataConfig:
    """Return a `data` section.

    Args:
        reader: The name of the reader.
        folder: The manifest or the folder of the data set.
        values: Further keys and values.
    """
    place = "manifest" if reader == "manifest" else "folder"
    given = {"reader": reader, place: str(folder), "max_text_tokens": 8, **values}
    return parse_data(given, source="test", base_directory=folder.parent)


def picture(path: Path) -> None:
    """Write an image whose colour depends on its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), tuple(zlib.crc32(path.name.encode()).to_bytes(4)[:3])).save(path)


def lines(path: Path, *rows: str) -> None:
    """Write a text file, one row per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


def food101(root: Path, titles: Mapping[str, Sequence[str]] | None = None) -> None:
    """Write Food-101 with three dishes, each with four images in train and one in test, with titles and pages.

    Args:
        root: The folder of the data set.
        titles: Rows of `texts/<split>_titles.csv`, by split, that replace the valid ones.
    """
    for split, count in (("train", 4), ("test", 1)):
        rows = []
        for dish in ("apple_pie", "churros", "pho"):
            for number in range(count):
                name = f"{dish}_{split}{number}"
                picture(root / "images" / split / dish / f"{name}.jpg")
                lines(root / "texts_txt" / dish / f"{name}.txt", f"all about {dish}", "", f"page {number}")
                rows.append(f'{name}.jpg,"{dish}, ""the best"" {number}",{dish}')
        lines(root / "texts" / f"{split}_titles.csv", *(titles or {}).get(split, rows))


def film(root: Path, number: str, **values: Any) -> None:
    """Write one film of MM-IMDb."""
    facts = {"plot": ["short", f"a much longer plot of {number}"], "genres": ["Drama"], "title": "x", **values}
    lines(root / "dataset" / f"{number}.json", json.dumps(facts))
    picture(root / "dataset" / f"{number}.jpeg")


def mm_imdb(root: Path) -> None:
    """Write MM-IMDb with four films in train and one in each other split."""
    genres = [["Drama"], ["Drama", "Comedy"], ["War", "Film-Noir"], ["Short"], ["Drama", "War"], ["Comedy"]]
    for number, film_genres in enumerate(genres):
        film(root, f"000{number}", genres=film_genres)
    splits = {"train": ["0000", "0001", "0002", "0003"], "dev": ["0004"], "test": ["0005"]}
    lines(root / "split.json", json.dumps(splits))


def sentence(image: str, text: str = "it is so", label: str = "entailment", **more: Any) -> str:
    """Return one line of SNLI-VE."""
    return json.dumps({"Flickr30K_ID": image, "sentence1": "", "sentence2": text, "gold_label": label, **more})


def snli_ve(root: Path) -> None:
    """Write SNLI-VE with three sentences per image: two images in train, one in each other split."""
    labels = ("entailment", "neutral", "contradiction")
    for split, images in (("train", ("11", "12")), ("dev", ("13",)), ("test", ("14",))):
        rows = [sentence(image, f"{label} of {image}", label) for image in images for label in labels]
        lines(root / f"snli_ve_{split}.jsonl", *rows)
        for image in images:
            picture(root / "flickr30k_images" / f"{image}.jpg")
