"""Benchmark `predict` for a table: rows a second against the bare model, and the memory above the loaded model.

The bare model has pixel values and token ids in memory, in the order of the table, and computes batches of the same
size with the same threads. `predict` also reads the table, decodes and processes pictures, tokenizes, and writes the
rows. Both alternate; ratios are medians over rounds; that of processor time counts all threads of both. Memory is the
largest resident set during the first prediction, less that of the process with the loaded model. The model is PMF's
default architecture on the encoders of the demo, with random prompts and classifiers; images and texts are those of the
demo, repeated.

Run: python -m benchmarks.predict_table [--rows N] [--rounds N] [--json FILE] [--quick]
"""

import argparse
import csv
import gc
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.models import DEMO, write_figures
from nas.common.progress import ProgressOnly, build_reporter
from nas.config.load import load_config
from nas.config.schema import Config
from nas.data.dataset import read_dataset
from nas.data.images import open_images
from nas.memory.measurement import release_freed_memory
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.models.fusion.supernet import build_model
from nas.run.export import assemble, export
from nas.run.exported_model import ExportedModel, open_exported
from nas.run.model_parts import ModelParts
from nas.run.prediction.batches import BATCH_SIZE
from nas.run.prediction.table import TableOptions, predict_table
from nas.run.tables import text_table

_BARE_ROWS = 2048


def main() -> None:
    """Measure, print the figures as a table and, on request, write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="256 rows, one round: shows that the script works")
    options = parser.parse_args()
    rows, rounds = (256, 1) if options.quick else (options.rows, options.rounds)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), rows, rounds)
    print(text_table(("figure", "value"), [(name, f"{value:.4g}") for name, value in figures.items()]))
    write_figures(options.json, {"rows": rows, **figures})


def measure(folder: Path, rows: int, rounds: int) -> dict[str, float]:
    """Return the figures of the benchmark.

    Args:
        folder: An empty folder for the model and the tables.
        rows: The number of rows to predict.
        rounds: The number of predictions of the whole table.
    """
    config = load_config(DEMO)
    export_demo(config, folder / "model")
    exported = open_exported(folder / "model")
    pictures = Path(config.data.images or "")
    table = write_table(config, folder / "new.csv", rows)
    data = config.data.replace(manifest=str(table), columns=config.data.columns.replace(split=None))
    options = TableOptions()
    gc.collect()
    release_freed_memory()  # of the export
    loaded = resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is measured from here on
    bare, whole, peaks = [], [], []
    for index in range(rounds):
        with build_reporter() as reporter, Clock() as clock:
            output = folder / f"out{index}.csv"
            predict_table(lambda: exported, data, output, options, reporter=ProgressOnly(reporter))
        whole.append(clock.per_second(rows))
        peaks.append(resident_bytes("VmHWM"))
        bare.append(measure_bare(exported, table, pictures, min(rows, _BARE_ROWS)))
    return {
        "bare model, rows a second": statistics.median(wall for wall, _ in bare),
        "predict, rows a second": statistics.median(wall for wall, _ in whole),
        "ratio": statistics.median(one[0] / other[0] for one, other in zip(whole, bare, strict=True)),
        "ratio of rows per processor second": statistics.median(
            one[1] / other[1] for one, other in zip(whole, bare, strict=True)
        ),
        "memory above the loaded model, MiB": (peaks[0] - loaded) / 2**20,
    }


class Clock:
    """Context that measures the time of its body."""

    def __enter__(self) -> "Clock":
        self._started = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = time.perf_counter(), time.process_time()

    def per_second(self, rows: int) -> tuple[float, float]:
        """Return a number of rows for each second, and for each second of processor time."""
        wall, processor = (end - start for start, end in zip(self._started, self._ended, strict=True))
        return rows / wall, rows / processor


def export_demo(config: Config, folder: Path) -> None:
    """Write a model folder with the encoders of the demo."""
    parts = ModelParts.load(config, read_dataset(config.data, ("train",), compares_images=False).class_names)
    layer = min(parts.image_encoder.num_layers, parts.text_encoder.num_layers) - 2
    fusion = build_model(
        image_encoder=parts.image_encoder,
        text_encoder=parts.text_encoder,
        architecture=PMFArchitecture(layer, 4, 4, 4, 384),
        num_classes=len(parts.class_names),
        seed=0,
    )
    model = assemble(
        image_encoder=parts.image_encoder,
        text_encoder=parts.text_encoder,
        trained=fusion,
        class_names=parts.class_names,
        max_text_tokens=parts.max_text_tokens,
    )
    facts = {"data": config.data.form()}
    export(folder, model=model, image_processor=parts.image_processor, tokenizer=parts.tokenizer, facts=facts)


def write_table(config: Config, path: Path, rows: int) -> Path:
    """Write a table with the images and texts of the demo, again and again, and return its path."""
    columns = config.data.columns
    with Path(config.data.location).open(newline="") as file:
        known = [(row[columns.image], row[columns.text]) for row in csv.DictReader(file)]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow((columns.image, columns.text))
        writer.writerows(known[index % len(known)] for index in range(rows))
    return path


@torch.inference_mode()
def measure_bare(exported: ExportedModel, table: Path, pictures: Path, count: int) -> tuple[float, float]:
    """Return how fast the model computes the first rows of a table from tensors in memory; see `Clock.per_second`."""
    images, preprocessor = open_images(pictures), exported.preprocessor
    batches: list[tuple[Tensor, Tensor, Tensor]] = []
    with table.open(newline="") as file:
        rows = [next(reader) for reader in [csv.reader(file)] for _ in range(count + 1)][1:]
    for start in range(0, count, BATCH_SIZE):
        chosen = rows[start : start + BATCH_SIZE]
        pixels = preprocessor.pixel_values([images.open(image) for image, _ in chosen])
        batches.append((pixels, *preprocessor.tokenize([text for _, text in chosen])))
    with Clock() as clock:
        for batch in batches:
            exported.model(*batch)
    return clock.per_second(count)


def resident_bytes(name: str) -> int:
    """Return the resident memory of this process, of /proc/self/status: VmRSS now, VmHWM at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()
