"""Measure how many samples a second the encoder outputs of a search are computed for on a device.

The bare encoders have the pixel values and token ids of all batches on the device, and run them through all layers in
the precision of the build: float16 on GPUs with tensor cores. The build also decodes and processes the pictures on all
cores, copies, checks, stores, and makes its blocks durable. Pictures and texts are those of the demo, the encoders
ViT-B and BERT-B with random weights.

Run: python -m benchmarks.gpu.features [--device cuda] [--short] [--json FILE]
"""

import statistics
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.feature_store import Case, make_case
from benchmarks.gpu.part import Part, run_part
from benchmarks.step_operations import seconds_of
from nas.common.devices import CPU, is_fast_in_float16
from nas.data.features.build import FeatureBuild
from nas.data.features.inputs import BLOCK_SIZE
from nas.data.features.threads import BuildLimits
from nas.run.tables import text_table


def measure(part: Part) -> bool:
    """Measure, print a table, and return that no bar is missed: the ratio depends on the cores that decode."""
    count, rounds = (16, 1) if part.is_short else (1024, 3)
    case = make_case("demo" if part.is_short else "base", count)
    case = replace(case, sources=replace(case.sources, device=part.device))
    forward = _bare_seconds(case, rounds)
    building = [_build_seconds(case) for _ in range(rounds)]
    figures = {
        "samples": count,
        "cores": torch.get_num_threads(),
        "bare_samples_per_second": count / statistics.median(forward),
        "build_samples_per_second": count / statistics.median(building),
        "build_of_bare": statistics.median(forward) / statistics.median(building),
    }
    part.write(figures)
    print(text_table(("figure", "value"), [(name, f"{value:.4g}") for name, value in figures.items()]))
    return False


def _bare_seconds(case: Case, rounds: int) -> list[float]:
    """Return the seconds of the encoders on all batches, which are on the device, in each round after a warm-up."""
    sources, samples, device = case.sources, case.sources.dataset.splits["train"], case.sources.device
    image, text, preprocessor = sources.image_encoder, sources.text_encoder, sources.preprocessor
    names = list(dict.fromkeys(samples.images))
    texts = sorted(samples.texts, key=lambda entry: len(preprocessor.token_ids([entry])[0]))
    pixels = [
        preprocessor.pixel_values([sources.images.open(name) for name in names[start : start + BLOCK_SIZE]]).to(device)
        for start in range(0, len(names), BLOCK_SIZE)
    ]
    tokens = [preprocessor.tokenize(texts[start : start + BLOCK_SIZE]) for start in range(0, len(texts), BLOCK_SIZE)]
    tokens = [(ids.to(device), mask.to(device)) for ids, mask in tokens]

    def run() -> None:
        is_half = is_fast_in_float16(device)
        with torch.inference_mode(), torch.autocast(device.type, torch.float16, enabled=is_half):
            for values in pixels:
                image.run(image.embed(values), None, start=0, stop=image.num_layers)
            for ids, mask in tokens:
                rows = text.embed(ids)
                text.run(rows, text.data_bias(mask, rows.shape[1], rows.dtype), start=0, stop=text.num_layers)

    for encoder in (image, text):
        encoder.to(device)
    try:
        run()
        return [seconds_of(run, device) for _ in range(rounds)]
    finally:
        for encoder in (image, text):
            encoder.to(CPU)


def _build_seconds(case: Case) -> float:
    """Return the seconds of computing and recording all blocks."""
    build = FeatureBuild(case.sources, case.config.features)
    threads = build.threads(BuildLimits(torch.get_num_threads(), case.config.budget.memory_bytes))
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "build"
        build.start(directory)
        return seconds_of(partial(build.run, directory, lambda done, total: None, threads), case.sources.device)


def main(arguments: list[str] | None = None) -> int:
    """Measure, and return the exit status."""
    return run_part(__doc__, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
