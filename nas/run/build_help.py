"""Compute features on all nodes of a cluster: what the driver starts, and what a node does."""

from functools import partial

from nas.common.devices import AUTO, CPU, accelerator, others_like
from nas.common.progress import Reporter, build_reporter
from nas.config.schema import Config
from nas.data.features.cache import help_build
from nas.data.features.helpers import BuildHelpers, HelpOrder, OwnDevices
from nas.data.features.threads import BuildLimits
from nas.execution.placement import Placement
from nas.run.executors import ExecutionOptions
from nas.run.sources import read_sources


def build_helpers(config: Config, options: ExecutionOptions, reporter: Reporter) -> BuildHelpers | None:
    """Return what lets other GPUs of this machine, and other nodes, help to compute features; None without them.

    A search without workers of its own leaves other GPUs alone.

    Args:
        config: The configuration of the search.
        options: The number of workers and the cluster.
        reporter: The receiver of messages about nodes.
    """
    if options.worker_count == 0:
        return None
    devices = others_like(options.own_device)
    if options.ray_address is None:
        return OwnDevices(devices) if devices else None
    from nas.execution.ray.build_helpers import RayBuildHelpers  # Ray takes seconds to import

    cores = Placement(options.worker_count, most_by_memory=2**31, threads=1, device=options.device)
    helpers = RayBuildHelpers(
        partial(help_to_build, config, device=options.device),
        address=options.ray_address,
        placement=cores,
        memory_bytes=config.budget.memory_bytes,
        on_note=reporter.note,
    )
    helpers.devices = devices
    return helpers


def help_to_build(config: Config, order: HelpOrder, limits: BuildLimits, *, device: str = AUTO) -> bool:
    """Compute blocks of a build that the driver has started, on another node of the cluster.

    Args:
        config: The configuration of the search.
        order: The build.
        limits: The cores and the memory.
        device: `cpu` to leave an accelerator alone.

    Returns:
        Whether this node shares the folder of the build.

    Raises:
        NasError: If data or encoders cannot be read on this node, or differ from the driver's.
    """
    if not order.is_here:
        return False
    cache_directory = order.building.parent.parent
    own = (None if device == CPU.type else accelerator()) or CPU
    sources = read_sources(
        config, source=config.name, cache_directory=cache_directory, reporter=build_reporter(), device=own
    )
    help_build(sources, config.features, order, limits)
    return True
