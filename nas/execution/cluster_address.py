"""Addresses of Ray clusters, checked without Ray, whose import takes seconds and which retries for minutes."""

import os
import socket
from pathlib import Path

from nas.common.boundary import reason_of, shown
from nas.common.errors import ExecutionError

CONNECT_SECONDS = 10.0
_MOST_PORT = 65535


def check_cluster(address: str) -> None:
    """Check that something answers at the address of a cluster.

    Args:
        address: The address; `auto` stands for a cluster of which this machine is a node.

    Raises:
        ExecutionError: If nothing does, or it is not the address of a cluster.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "auto")
    if address == "auto":
        if not _has_node():
            raise cluster_error("auto", "no node of a cluster runs on this machine")
        return
    place = host_and_port(address.removeprefix("ray://"))
    if place is None:
        raise cluster_error(address, "not an address")
    try:
        socket.create_connection(place, timeout=CONNECT_SECONDS).close()
    except (OSError, UnicodeError) as error:
        raise cluster_error(address, reason_of(error)) from error


def cluster_error(address: str, reason: str) -> ExecutionError:
    """Return the error of an address at which no cluster can be reached."""
    return ExecutionError(
        f"--ray-address {shown(address)}: cannot connect to a Ray cluster: {reason}; expected HOST:PORT of its head "
        "node, or auto on one of its nodes"
    )


def host_and_port(address: str) -> tuple[str, int] | None:
    """Return the parts of an address; None if it has another form."""
    host, colon, port = address.rpartition(":")
    is_number = port.isascii() and port.isdigit() and len(port) <= len(str(_MOST_PORT))
    if not colon or not host or not is_number or "/" in host or not 0 < int(port) <= _MOST_PORT:
        return None
    return host.strip("[]"), int(port)


def _has_node() -> bool:
    """Return whether a node of a cluster runs on this machine."""
    for name in Path("/proc").glob("[0-9]*/comm"):
        try:
            if name.read_text().strip() == "raylet":
                return True
        except OSError:
            continue  # the process has ended
    return False
