"""A PostgreSQL server for the tests: a new cluster in a temporary folder, on a free loopback port."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USER, PASSWORD = "search", "geheim"
_START_SECONDS = 30.0


def programs() -> Path:
    """Return the folder of the server's programs; Debian has one per version, none of which is in the PATH.

    Raises:
        FileNotFoundError: If no server is installed.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    if not found and on_path is None:
        raise FileNotFoundError("no PostgreSQL server is installed; install Debian's package postgresql")
    return found[-1].parent if found else Path(str(on_path)).parent


@contextmanager
def running_server() -> Iterator[str]:
    """Yield the URL of an empty database of a server that runs until the block ends."""
    bin_directory = programs()
    account = "postgres" if os.geteuid() == 0 else None  # the programs refuse to be run by root
    with tempfile.TemporaryDirectory(prefix="postgresql-") as name:
        folder = Path(name)
        (folder / "password").write_text(PASSWORD)
        if account is not None:
            for path in (folder, folder / "password"):
                shutil.chown(path, account)
        initdb: list[str | Path] = [bin_directory / "initdb", "-D", folder / "data", "-U", USER, "--auth=scram-sha-256"]
        subprocess.run(
            [*initdb, f"--pwfile={folder / 'password'}", "--encoding=UTF8", "--locale=C", "--no-sync"],
            check=True,
            stdout=subprocess.DEVNULL,
            user=account,
            cwd=folder,
        )
        port = _free_port()
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [bin_directory / "postgres", "-D", "data", "-p", str(port), "-h", "127.0.0.1", "-k", "", "-F"],
                stdout=log,
                stderr=log,
                user=account,
                cwd=folder,
            )
        try:
            _wait_until_ready(bin_directory, port, folder / "log")
            yield f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown: also ends the connections
            server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_ready(bin_directory: Path, port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    probe: list[str | Path] = [bin_directory / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
    while subprocess.run(probe, check=False).returncode != 0:
        if time.monotonic() > deadline:
            raise TimeoutError(f"PostgreSQL did not start: {log.read_text()}")
        time.sleep(0.05)
