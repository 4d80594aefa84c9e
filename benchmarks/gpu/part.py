"""What all parts of the measurements on a GPU share: options, the file of figures, and bars."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.models import write_figures
from nas.common.devices import device_name, device_of, is_accelerator, load_kernels
from nas.common.errors import NasError


@dataclass(frozen=True)
class Part:
    """The options of a part.

    Args:
        device: The device that is measured.
        is_short: Whether to show only that the part works: tiny encoders, few repetitions, no bars.
        path: The file of figures; None to write none.
    """

    device: torch.device
    is_short: bool
    path: Path | None

    def write(self, figures: Mapping[str, Any]) -> None:
        """Write the figures known so far: what a limit of time cuts off leaves those before it.

        Args:
            figures: The figures, by name.
        """
        facts = {"device": device_name(self.device), "torch": torch.__version__, "short": self.is_short}
        write_figures(self.path, {**facts, **figures})

    def missed(self, bars: Mapping[str, bool]) -> bool:
        """Print which bars are met; return whether any is missed, which a short run never does.

        Args:
            bars: Whether each bar is met, by its text.
        """
        if self.is_short:
            return False
        for text, is_met in bars.items():
            print(f"{'met' if is_met else 'MISSED'}: {text}")
        return not all(bars.values())


def run_part(description: str | None, measure: Callable[[Part], bool], arguments: list[str] | None = None) -> int:
    """Parse the options of a part and measure it.

    Args:
        description: The documentation of the program.
        measure: Function that measures, writes the figures and returns whether a bar is missed.
        arguments: The arguments; those of this process by default.

    Returns:
        The exit status: 1 if a bar is missed.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, or cuda:1")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file of figures, written as they are measured")
    parser.add_argument("--short", action="store_true", help="show that it works: tiny encoders, no bars")
    options = parser.parse_args(arguments)
    try:
        device = device_of(options.device)
    except NasError as error:
        parser.error(str(error))
    if options.short:
        torch.set_num_threads(1)
    if is_accelerator(device):
        load_kernels(device)
    return int(measure(Part(device, options.short, options.json)))
