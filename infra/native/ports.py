"""Which ports are free, and who holds one that is not."""

import socket
from pathlib import Path

from infra.native.processes import Failed

HOST = "127.0.0.1"
#: The state of a listening socket in /proc/net/tcp.
LISTENING = "0A"


def is_free(port: int) -> bool:
    """Whether one can listen on this port of the machine itself."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def accepts(port: int) -> bool:
    """Whether somebody answers on this port."""
    try:
        with socket.create_connection((HOST, port), timeout=1):
            return True
    except OSError:
        return False


def require(port: int) -> None:
    """Failed, with what to do about it, when the port that people know is taken."""
    if not is_free(port):
        raise Failed(
            f"Port {port}, where the gateway is to listen, is taken by {holder(port)}."
            f" Stop that, or choose another port with PERENNIAL_GATEWAY_PORT=8088."
        )


class Ports:
    """Hands out ports: the preferred one where it is free, else some other; none of them twice."""

    def __init__(self, taken: set[int] | None = None) -> None:
        self._given = set(taken or ())

    def pick(self, preferred: int = 0) -> int:
        """A free port; the preferred one if possible."""
        if preferred and preferred not in self._given and is_free(preferred):
            self._given.add(preferred)
            return preferred
        while True:
            with socket.socket() as probe:
                probe.bind((HOST, 0))
                port = int(probe.getsockname()[1])
            if port not in self._given:
                self._given.add(port)
                return port


def holder(port: int) -> str:
    """Who listens on the port, as far as this user may know: `nginx (process 4711)`."""
    sockets = {f"socket:[{inode}]" for inode in _listening(port)}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(link.readlink()) in sockets for link in (folder / "fd").iterdir()):
                name = (folder / "comm").read_text().strip()
                return f"{name} (process {folder.name})"
        except OSError:  # gone meanwhile, or somebody else's
            continue
    return "a process of another user"


def _listening(port: int) -> set[str]:
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:] if Path(table).exists() else ():
            fields = line.split()
            if fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                found.add(fields[9])
    return found
