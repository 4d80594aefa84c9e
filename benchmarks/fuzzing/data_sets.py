"""Mutated data sets: manifests, images, archives of images, and the arguments of a prediction."""

import io
import json
import random
import unicodedata
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from benchmarks.fuzzing.cases import COMMANDS, Mutation
from benchmarks.fuzzing.hostile import TEXTS, mutate_bytes, mutate_file, mutate_tree
from benchmarks.fuzzing.layouts import LAYOUTS, write_layout
from benchmarks.fuzzing.project import MANIFESTS


def mutate_data_set(root: Path, rng: random.Random) -> Mutation:
    """Change the data set of a project, which a new search reads, a finished one knows, or an exported model gets."""
    mutators = (_damage_manifest, _change_cell, _restate, _damage_image, _replace_image, _damage_archive, _change_known)
    return rng.choice((*mutators, *mutators, _damage_layout, _damage_layout, _predict))(root, rng)


def _use(root: Path, rng: random.Random, manifest: str, images: str = "images") -> tuple[str, ...]:
    """Point the search file to a manifest and images; return a command that reads them."""
    path = root / "search.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values["data"] |= {"manifest": manifest, "images": images}
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    if rng.random() < 0.3:
        return tuple(
            word.replace("/manifest.csv", f"/{manifest}").replace("/images", f"/{images}")
            for word in COMMANDS["evaluate"]
        )
    return COMMANDS["search"]


def _damage_manifest(root: Path, rng: random.Random) -> Mutation:
    name = rng.choice(tuple(MANIFESTS))
    description = mutate_file(root / name, rng)
    return Mutation(description, _use(root, rng, name))


def _change_cell(root: Path, rng: random.Random) -> Mutation:
    name = rng.choice(tuple(MANIFESTS))
    lines = (root / name).read_text(encoding="utf-8").splitlines()
    at, separator = rng.randrange(len(lines)), MANIFESTS[name] or ", "
    cells = lines[at].split(separator)
    cell = rng.randrange(len(cells))
    value = rng.choice((*TEXTS, '"', '""', '"open', 'a"b', "1" * 131_073, "red ", "Red", "train", "000.png"))
    cells[cell] = value
    lines[at] = separator.join(cells)
    (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogatepass")
    return Mutation(f"{name}, line {at + 1}, cell {cell + 1} is {value[:40]!r}", _use(root, rng, name))


def _restate(root: Path, rng: random.Random) -> Mutation:
    """State the same data differently: results must stay what they are, if there is no message."""
    path = root / "manifest.csv"
    text = path.read_text(encoding="utf-8")
    rows = [line.split(",") for line in text.splitlines()]
    ways: Sequence[tuple[str, bytes]] = (
        ("in UTF-16", text.encode("utf-16")),
        ("with a byte order mark", text.encode("utf-8-sig")),
        ("with CRLF", text.replace("\n", "\r\n").encode()),
        ("with CR", text.replace("\n", "\r").encode()),
        ("with quotes", "\n".join(",".join(f'"{cell}"' for cell in row) for row in rows).encode()),
        ("with backslashes", text.replace("\n0", "\n.\\0").encode()),
        ("in NFD", unicodedata.normalize("NFD", text).encode()),
        ("in another order of columns", "\n".join(",".join(reversed(row)) for row in rows).encode()),
        ("with semicolons", text.replace(",", ";").encode()),
        ("without a header", text.split("\n", 1)[1].encode()),
        ("with an empty line in the middle", text.replace("\n05", "\n\n05").encode()),
        ("with a column more", "\n".join(",".join([*row, "x"]) for row in rows).encode()),
        ("with names in capital letters", text.replace(".png", ".PNG").encode()),
    )
    description, content = rng.choice(ways)
    path.write_bytes(content)
    command = COMMANDS["search"] if rng.random() < 0.7 else COMMANDS["evaluate"]
    return Mutation(f"the manifest is {description}", command, is_known=True)


def _damage_image(root: Path, rng: random.Random) -> Mutation:
    path = rng.choice(sorted((root / "images").iterdir()))
    description = mutate_file(path, rng)
    return Mutation(description, _use(root, rng, "manifest.csv"))


def _encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _forms(image: Image.Image) -> Sequence[tuple[str, Callable[[], bytes], bool]]:
    """Return other files of an image: a description, its content, and whether it shows the same pixels."""
    grey = image.convert("L")
    values = np.asarray(grey)
    return (
        ("in 32-bit integers", lambda: _encoded(Image.fromarray(values.astype(np.int32)), "TIFF"), False),
        ("in 16 bits", lambda: _encoded(Image.fromarray(values.astype(np.uint16) * 257), "PNG"), False),
        ("in floating point", lambda: _encoded(Image.fromarray(values.astype(np.float32)), "TIFF"), False),
        ("with a palette", lambda: _encoded(image.convert("P"), "PNG"), False),
        ("with transparency", lambda: _encoded(image.convert("RGBA"), "PNG"), False),
        ("in CMYK", lambda: _encoded(image.convert("CMYK"), "JPEG"), False),
        ("with one bit", lambda: _encoded(image.convert("1"), "PNG"), False),
        ("animated", lambda: _encoded(image, "GIF", save_all=True, append_images=[grey.convert("RGB")] * 3), False),
        ("as BMP", lambda: _encoded(image, "BMP"), True),
        ("of one pixel", lambda: _encoded(image.resize((1, 1)), "PNG"), False),
        ("of 1 x 5,000 pixels", lambda: _encoded(image.resize((1, 5_000)), "PNG"), False),
        ("of 13,000 x 13,000 pixels", lambda: _encoded(Image.new("1", (13_000, 13_000)), "PNG"), False),
        ("as SVG", lambda: b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", False),
        ("as PostScript", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", False),
    )


def _replace_image(root: Path, rng: random.Random) -> Mutation:
    path = rng.choice(sorted((root / "images").glob("*.png")))
    with Image.open(path) as image:
        description, encode, is_same = rng.choice(_forms(image.convert("RGB")))
        path.write_bytes(encode())
    return Mutation(f"{path.name} is {description}", _use(root, rng, "manifest.csv"), is_known=is_same)


def _damage_archive(root: Path, rng: random.Random) -> Mutation:
    path = root / "images.zip"
    action = rng.randrange(4)
    if action == 0:
        description = mutate_file(path, rng)
    else:
        with zipfile.ZipFile(path) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        chosen = rng.choice(sorted(entries))
        if action == 1:
            entries[chosen], description = mutate_bytes(entries[chosen], rng)
        elif action == 2:
            entries[f"images\\{chosen}"], description = entries.pop(chosen), "has a backslash"
        else:
            entries[chosen], description = b"\x00" * 3 * 1024**3 if rng.random() < 0.1 else b"", "is empty or zeros"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, content in entries.items():
                archive.writestr(name, content)
        description = f"images.zip, {chosen}: {description}"
    return Mutation(description, _use(root, rng, "manifest.csv", "images.zip"))


def _damage_layout(root: Path, rng: random.Random) -> Mutation:
    """Damage a file that describes samples in the layout of another reader, or change a value in it."""
    layout = rng.choice(LAYOUTS)
    data, described = write_layout(root, layout)
    path = rng.choice((described[0], rng.choice(described)))
    if path.suffix == ".json" and rng.random() < 0.6:
        tree, description = mutate_tree(json.loads(path.read_text(encoding="utf-8")), rng)
        path.write_text(json.dumps(tree), encoding="utf-8")
    else:
        description = mutate_file(path, rng)
    search_file = root / "search.yaml"
    values = yaml.safe_load(search_file.read_text(encoding="utf-8"))
    values["data"] = dict(data)
    if layout == "mm_imdb":
        values["search"]["objective"] = "micro_f1"
    search_file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return Mutation(f"{path.relative_to(root)}: {description}", COMMANDS["search"])


def _change_known(root: Path, rng: random.Random) -> Mutation:
    """Change what a finished run was trained on; a resumed run must notice it."""
    path = root / "manifest.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    at = rng.randrange(1, len(lines))
    image, text, label, split = lines[at].split(",")
    action = rng.randrange(4)
    if action == 0:
        lines[at] = ",".join((image, text, {"red": "green", "green": "red"}[label], split))
    elif action == 1:
        lines[at] = ",".join((image, f"{text} fox", label, split))
    elif action == 2:
        del lines[at]
    else:
        with Image.open(root / "images" / image) as opened:
            changed = opened.convert("RGB")
        changed.putpixel((rng.randrange(20), rng.randrange(24)), (0, 0, 255))
        changed.save(root / "images" / image)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    what = ("the label", "the text", "the row", "a pixel")[action]
    return Mutation(
        f"{what} of row {at} ({split}) is changed", COMMANDS[rng.choice(("resume", "again"))], is_known=True
    )


def _predict(root: Path, rng: random.Random) -> Mutation:
    """Classify a damaged image, or an unusual text."""
    command = list(COMMANDS["predict"])
    if rng.random() < 0.5:
        description = mutate_file(root / "images" / "00.png", rng)
    else:
        text = rng.choice([text for text in TEXTS if "\x00" not in text])
        command[-1], description = text, f"--text {text[:40]!r}"
    return Mutation(description, tuple(command))
