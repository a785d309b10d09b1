"""Free ports of this machine. Servers of the study listen on loopback only."""

import socket
from contextlib import suppress

from study.spec import InputError

HOST = "127.0.0.1"
TRIES, LAST = 100, 65_535


def listening(first: int) -> socket.socket:
    """A socket that listens on port `first` of loopback, or on the next free one; of 0, on any.

    Raises `InputError` for what is no port, and where none of so many is free.
    """
    if not 0 <= first <= LAST:
        raise InputError(f"port {first} does not exist; choose one from 1 to {LAST}, or 0 for any that is free")
    last = min(first + TRIES - 1, LAST)
    for port in range(first, last + 1):
        with suppress(OSError):  # taken, or reserved
            return socket.create_server((HOST, port))
    raise InputError(f"ports {first} to {last} cannot be had; name another with --port")


def free_port(first: int) -> int:
    """`first`, or the next port that nothing on loopback listens on."""
    with listening(first) as server:
        return int(server.getsockname()[1])
