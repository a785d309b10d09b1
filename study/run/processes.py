"""Processes that a launcher starts beside itself, and how it hears from them. Standard library only."""

import multiprocessing
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

STARTED = "started"  # a file in Ray's folder, once Ray runs


@dataclass(frozen=True)
class RayDied:
    """The end of Ray that no input explains. The launcher starts another one."""

    reason: str
    started: bool = True


def start(target: Callable[..., None], *arguments: Any) -> tuple[SpawnProcess, Connection]:
    """Run `target(*arguments, pipe)` in a process of its own; returns it and the other end of the pipe.

    A terminal's Ctrl-C, which reaches every process, does not stop it: the launcher decides.
    """
    spawn = multiprocessing.get_context("spawn")
    here, far = spawn.Pipe()
    process = spawn.Process(target=target, args=(*arguments, far))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, before)
    far.close()
    return process, here
