"""TCP ports for the servers that tests start and that want to be told a number."""

from __future__ import annotations

import secrets
import socket
from contextlib import suppress
from pathlib import Path

_LOWEST = 16384
_USUAL_END = 32768


def free_port() -> int:
    """A port that nobody listens on, and that nobody else takes before its server does.

    It lies below those that the system gives to connections and to servers that ask for any port, and an abstract
    socket, which is held until this process ends, keeps it from other processes that call this.
    """
    end = _USUAL_END
    with suppress(OSError, ValueError, IndexError):  # a system that does not say is taken for a usual one
        end = max(_LOWEST + 1000, int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0]))
    while True:
        port = _LOWEST + secrets.randbelow(end - _LOWEST)
        with socket.socket(socket.AF_UNIX) as reserved, socket.socket() as probe, suppress(OSError):
            reserved.bind(f"\0mobilekit-tests-port-{port}")
            probe.bind(("127.0.0.1", port))
            reserved.detach()
            return port
