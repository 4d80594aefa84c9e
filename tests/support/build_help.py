"""What another node does in tests of builds that several nodes share."""

import time
from typing import Any

from nas.config.schema import Config
from nas.data.features import blocks as feature_blocks
from nas.data.features import inputs as feature_inputs
from nas.data.features.encode import BatchEncoder
from nas.data.features.helpers import HelpOrder
from nas.data.features.threads import BuildLimits
from nas.run.build_help import help_to_build

SMALL = 4
"""The number of images or texts in a batch and in a block of these tests."""


REACHED = "blocks/reached"
"""The file in the folder of the build that shows that a node has come so far as the test wants it to."""


def use_small_blocks() -> None:
    """Use blocks of one small batch, each recorded at once, in this process."""
    feature_inputs.BATCH_SIZE = feature_inputs.BLOCK_SIZE = SMALL
    feature_blocks.SAVE_SECONDS = 0.0


def hanging_help(config: Config, order: HelpOrder, limits: BuildLimits) -> bool:
    """Compute three small blocks, then keep the fourth for ever."""
    use_small_blocks()
    encode, count = BatchEncoder.encode, 0

    def encode_or_hang(self: BatchEncoder, *arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count > 3:
            (order.building / REACHED).touch()
            time.sleep(3600)
        return encode(self, *arguments)

    BatchEncoder.encode = encode_or_hang  # type: ignore[method-assign, assignment]
    return help_to_build(config, order, limits)


def refusing_help(config: Config, order: HelpOrder, limits: BuildLimits) -> bool:
    """Find that the node does not share the folder of the build."""
    del config, limits
    (order.building / REACHED).touch()
    return HelpOrder(order.building.with_name("elsewhere"), order.identity, 1).is_here
