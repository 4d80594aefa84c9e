"""Draw the figures of the documentation as SVG, next to this file.

`comparison.svg` shows `benchmarks/results/comparison.csv`; the two diagrams are drawn from the tables in this module.
The output depends on nothing else, so that a test can compare it with the committed files.

Run: python -m docs.figures.draw
"""

import csv
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

FOLDER = Path(__file__).resolve().parent
COMPARISON = FOLDER.parent.parent / "benchmarks" / "results" / "comparison.csv"

PACKAGES = (
    ("common", "errors, files, units, progress, registries"),
    ("search", "search spaces, objectives, strategies (no torch)"),
    ("models", "frozen encoders, fusion families, supernet"),
    ("config", "schema and loader of search files"),
    ("data", "readers, splits, images, cached features"),
    ("training", "trainer, losses, metrics, checkpoints"),
    ("memory", "prediction and measurement of peaks"),
    ("storage", "studies: journal, database, driver lock"),
    ("execution", "scheduler, memory pool, workers (Ray or serial)"),
    ("run", "a whole search, export, comparison"),
    ("cli", "the command line"),
)
"""Package → content, in the import order: each may import those above it."""

STEPS = (
    ("search/strategies", "The strategy proposes an architecture", "Architecture"),
    ("memory", "Its peak memory is predicted", "Job"),
    ("execution", "The memory pool admits the job to a worker", "Job"),
    ("training", "The worker slices the supernet, or trains fresh weights", "weights"),
    ("training", "The worker evaluates it on the validation split", "Result"),
    ("storage", "The study stores the result durably", "Result"),
    ("search/strategies", "The strategy observes the score", ""),
)
"""The package, the step, and the object that the step hands over."""

TITLES = {
    "image_only": "image only",
    "text_only": "text only",
    "vpt": "VPT",
    "p_bert": "P-BERT",
    "linear": "Linear",
    "bilinear": "Bilinear",
    "late_concat": "LateConcat",
    "mmbt": "MMBT",
    "mbt": "MBT",
    "prompt_fuse": "PromptFuse",
    "blind_prompt": "BlindPrompt",
    "albef": "ALBEF",
    "vlmo": "VLMo",
    "vse": "VSE",
    "vilbert": "ViLBERT",
    "uniter": "UNITER",
    "vilt": "ViLT",
    "pmf": "PMF, default",
    "pmf_searched": "PMF, searched",
}
LEFT = {"mbt", "pmf_searched", "late_concat"}
"""Families whose name is written to the left of the point, where the right side is taken."""

BLUE, ORANGE, GREY, INK, LIGHT = "#4477aa", "#d95f02", "#888888", "#222222", "#eef3f8"


def main() -> None:
    """Write all figures."""
    for name, content in figures().items():
        (FOLDER / name).write_text(content, encoding="utf-8")


def figures() -> dict[str, str]:
    """Return file name → SVG."""
    return {"packages.svg": packages(), "candidate.svg": candidate(), "comparison.svg": comparison()}


def packages() -> str:
    """Draw the packages in their import order."""
    parts, height = [], 34
    for place, (name, content) in enumerate(PACKAGES):
        y = 10 + place * (height + 14)
        parts.append(_box(90, y, 540, height))
        parts.append(_text(106, y + 22, name, weight="bold"))
        parts.append(_text(206, y + 22, content))
        if place:
            parts.append(_arrow(360, y, 360, y - 13))
    bottom = 10 + len(PACKAGES) * (height + 14)
    parts.append(_arrow(40, bottom - 20, 40, 14))
    parts.append(_text(30, bottom - 20, "may import", rotate=-90, size=12, color=GREY))
    return _svg(650, bottom, "Packages of nas in import order", parts)


def candidate() -> str:
    """Draw the path of a candidate from proposal to result."""
    parts, height, gap = [], 40, 34
    for place, (package, step, handed) in enumerate(STEPS):
        y = 10 + place * (height + gap)
        parts.append(_box(150, y, 440, height))
        parts.append(_text(140, y + 25, package, anchor="end", weight="bold", size=13))
        parts.append(_text(370, y + 25, step, anchor="middle"))
        if place:
            parts.append(_arrow(370, y - gap, 370, y - 1))
        if handed:
            parts.append(_text(380, y + height + 22, handed, size=12, color=GREY))
    bottom = 10 + len(STEPS) * (height + gap) - gap + 10
    middle, top = bottom - 10 - height / 2, 10 + height / 2
    parts.append(f'<path d="M590 {middle:g} H620 V{top:g} H592" fill="none" stroke="{INK}" marker-end="url(#head)"/>')
    parts.append(_text(634, (middle + top) / 2, "next proposal", rotate=-90, anchor="middle", size=12, color=GREY))
    return _svg(650, bottom, "Path of a candidate from proposal to result", parts)


def comparison() -> str:
    """Draw test accuracy over training memory of every family, from the committed table."""
    left, top, width, height = 64, 16, 560, 330
    low_x, high_x, low_y, high_y = math.log10(2.5), math.log10(2500), 0.36, 0.66
    parts = []
    for exponent, label in ((0.602, "4"), (1.0, "10"), (1.477, "30"), (2.0, "100"), (2.477, "300"), (3.0, "1000")):
        x = left + (exponent - low_x) / (high_x - low_x) * width
        parts.append(_line(x, top, x, top + height))
        parts.append(_text(x, top + height + 18, label, anchor="middle", size=12))
    for tick in (0.40, 0.45, 0.50, 0.55, 0.60, 0.65):
        y = top + (high_y - tick) / (high_y - low_y) * height
        parts.append(_line(left, y, left + width, y))
        parts.append(_text(left - 8, y + 4, f"{tick:.2f}", anchor="end", size=12))
    for name, megabytes, accuracy in _families():
        x = left + (math.log10(megabytes) - low_x) / (high_x - low_x) * width
        y = top + (high_y - accuracy) / (high_y - low_y) * height
        is_pmf = name.startswith("pmf")
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{ORANGE if is_pmf else BLUE}"/>')
        anchor, offset = ("end", -9) if name in LEFT else ("start", 9)
        shift = {"pmf_searched": 8, "pmf": 0}.get(name, 4)
        weight = "bold" if is_pmf else "normal"
        parts.append(_text(x + offset, y + shift, TITLES[name], anchor=anchor, size=12, weight=weight))
    parts.append(
        _text(left + width / 2, top + height + 38, "training memory, MiB (log scale)", anchor="middle", size=13)
    )
    parts.append(_text(16, top + height / 2, "test accuracy", anchor="middle", rotate=-90, size=13))
    return _svg(640, top + height + 50, "Test accuracy over training memory on the demo", parts)


def _families() -> Iterator[tuple[str, float, float]]:
    """Yield name, training memory in MiB and mean test accuracy of every family."""
    with COMPARISON.open(newline="") as file:
        for row in csv.DictReader(file):
            scores = [float(row[f"test_accuracy_seed{seed}"]) for seed in range(3)]
            yield row["name"], int(row["training_bytes"]) / 2**20, statistics.fmean(scores)


def _svg(width: float, height: float, title: str, parts: list[str]) -> str:
    head = (
        '<defs><marker id="head" markerWidth="8" markerHeight="8" refX="6" refY="3" orient="auto">'
        f'<path d="M0 0 L6 3 L0 6 z" fill="{INK}"/></marker></defs>'
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
            f'height="{height:g}" font-family="sans-serif" font-size="14" role="img">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{width:g}" height="{height:g}" fill="white"/>',
            head,
            *parts,
            "</svg>\n",
        ]
    )


def _box(x: float, y: float, width: float, height: float) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" fill="{LIGHT}" stroke="{BLUE}"/>'


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path d="M{x1:.1f} {y1:.1f} L{x2:.1f} {y2:.1f}" stroke="#dddddd"/>'


def _arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path d="M{x1:g} {y1:g} L{x2:g} {y2:g}" stroke="{INK}" marker-end="url(#head)"/>'


def _text(
    x: float,
    y: float,
    content: str,
    *,
    anchor: str = "start",
    size: int = 14,
    weight: str = "normal",
    color: str = INK,
    rotate: int = 0,
) -> str:
    turned = f' transform="rotate({rotate} {x:.1f} {y:.1f})"' if rotate else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" '
        f'fill="{color}"{turned}>{escape(content)}</text>'
    )


if __name__ == "__main__":
    main()
