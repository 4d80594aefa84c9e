"""The processes that this one has started, and their listening sockets."""

import os
import socket
from pathlib import Path

_LISTENING = "0A"


def descendants() -> dict[int, str]:
    """Return the processes that this one has started, directly or not: process number and command line."""
    parents, commands = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                commands[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            except OSError:
                continue  # it has ended
    found = {os.getpid()}
    while new := {process for process, parent in parents.items() if parent in found} - found:
        found |= new
    return {process: commands.get(process, "") for process in found - {os.getpid()}}


def listening_addresses(process: int) -> list[str]:
    """Return the addresses on which a process accepts TCP connections."""
    files = Path(f"/proc/{process}/fd")
    try:
        links = {os.readlink(link) for link in files.iterdir()}
    except OSError:
        return []
    found = []
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/{process}/net/{name}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == _LISTENING and f"socket:[{inode}]" in links:
                words = bytes.fromhex(local.partition(":")[0])
                address = b"".join(words[start : start + 4][::-1] for start in range(0, len(words), 4))
                found.append(socket.inet_ntop(family, address))
    return found
