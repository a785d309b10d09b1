"""Free ports of this machine. Servers of the study listen on loopback only."""

import socket
from contextlib import suppress

from study.spec import InputError

HOST = "127.0.0.1"
TRIES = 100


def listening(first: int) -> socket.socket:
    """A socket that listens on port `first` of loopback, or on the next free one. Raises `InputError`."""
    for port in range(first, first + TRIES):
        with suppress(OSError, OverflowError):  # taken, reserved, or beyond 65535
            return socket.create_server((HOST, port))
    raise InputError(f"ports {first} to {first + TRIES - 1} cannot be had; name another with --port")


def free_port(first: int) -> int:
    """`first`, or the next port that nothing on loopback listens on."""
    with listening(first) as server:
        return int(server.getsockname()[1])
