"""Describe the search space of every arm of a search file."""

from collections.abc import Callable, Sequence

import torch

from nas.common.errors import BudgetError, EncoderError
from nas.common.progress import Reporter
from nas.config.load import Arm
from nas.config.overrides import Overrides
from nas.run.arms.directory import with_overrides
from nas.run.checks import check_memory
from nas.run.defaults import complete
from nas.run.prepare import predict_memory
from nas.run.space_summary import describe_space


def describe_arms(
    arms: Sequence[Arm], overrides: Overrides, source: str, reporter: Reporter, device: torch.device
) -> None:
    """Show the search space of every arm; of several, those that cannot be loaded or do not fit are named.

    Args:
        arms: The arms of a search file.
        overrides: The values of the command line.
        source: The name of the search file, for messages.
        reporter: The receiver of the descriptions.
        device: The device of the workers of a search.

    Raises:
        NasError: If the search file or the data cannot be used, or an encoder of the only arm cannot be loaded.
    """
    is_only = len(arms) == 1
    for_each_arm(arms, overrides, reporter, lambda arm: _describe(arm, source, reporter, device, checks=not is_only))


def for_each_arm(
    arms: Sequence[Arm], overrides: Overrides, reporter: Reporter, describe: Callable[[Arm], None]
) -> None:
    """Describe every arm; of several, those that a search would leave out are named.

    Args:
        arms: The arms of a search file.
        overrides: The values of the command line.
        reporter: The receiver of the descriptions.
        describe: Function that describes an arm.

    Raises:
        NasError: If the search file or the data cannot be used, or the only arm cannot be searched.
    """
    if len(arms) == 1:
        describe(Arm(arms[0].name, overrides.apply(arms[0].config), {}))
        return
    for arm in with_overrides(arms, overrides).arms:
        reporter.note(f"Arm {arm.name}")
        reporter.note("")
        try:
            describe(arm)
        except (BudgetError, EncoderError) as error:
            reporter.note(f"Left out by a search: {error}")
        reporter.note("")


def _describe(arm: Arm, source: str, reporter: Reporter, device: torch.device, *, checks: bool) -> None:
    config = complete(arm.config, source=source, reporter=reporter, device=device)
    memory, default = predict_memory(config, source=source, device=device)
    if checks:
        check_memory(config, memory)
    describe_space(config, memory, default, reporter)
