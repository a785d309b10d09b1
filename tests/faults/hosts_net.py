"""Hosts on one machine, each in namespaces of its own, and the switch between them.

A host has a name, an address, processes, a /dev/shm and a folder of temporary files that no other host sees; what else
is on disk all of them share. Its end is a power cut. The switch is a program, because a kernel need not have the
modules that delay frames and lose them (`tc netem`): it does both, and cuts pairs of hosts off from each other. Takes
root, the programs below and /dev/net/tun. A host ends with the process that made it.
"""

import ctypes
import fcntl
import heapq
import itertools
import multiprocessing
import os
import random
import selectors
import shutil
import signal
import struct
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
from common import ROOT, Processes, wait_for

NETWORK = "10.77.0"
NAMES = ("head", "tracking", *(f"worker-{number}" for number in range(1, 200)))  # addresses in this order, from .1
FRAME_BYTES = 2048
TUNSETIFF, TAP, NO_HEADER = 0x400454CA, 0x0002, 0x1000  # linux/if_tun.h
PROGRAMS = ("ip", "unshare", "nsenter", "setpriv", "mount")
BOOT = """set -e
hostname "$0"
mount --bind "$1/hosts" /etc/hosts
mount --bind /dev/null /etc/resolv.conf
mount --bind "$1/$0" "$1/own"
mount -t tmpfs -o size=300m tmpfs /dev/shm
ip link set lo up
echo up
sleep infinity &
wait"""


def lacking() -> str:
    """What this machine lacks for hosts, in words; '' where nothing."""
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if missing:
        return f"hosts take the programs {', '.join(missing)}"
    if os.geteuid() != 0 or not os.access("/dev/net/tun", os.W_OK):
        return "hosts take root and /dev/net/tun"
    tried = subprocess.run(["unshare", "--net", "--uts", "--pid", "--mount", "--fork", "true"], capture_output=True)
    return "" if tried.returncode == 0 else f"hosts take namespaces: {tried.stderr.decode().strip()}"


@dataclass
class Weather:
    """What happens to frames on their way."""

    cut: set[frozenset[str]] = field(default_factory=set)  # pairs of hosts without a way to each other
    slow: dict[str, tuple[float, float]] = field(default_factory=dict)  # by host: delay in s, and loss of what it sends


class Switch:
    """The switch, in a process of its own, and its weather."""

    def __init__(self, seed: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, far = context.Pipe()
        self.process = context.Process(target=_switch, args=(far, seed), daemon=True)
        self.process.start()
        self.weather = Weather()

    def plug(self, host: str) -> str:
        """The name of a new interface at a port of this host's."""
        self.pipe.send(host)
        return str(self.pipe.recv())

    def changed(self) -> None:
        """Let the weather be as it is set now."""
        self.pipe.send(self.weather)

    def frames(self) -> dict[str, int]:
        """How many frames were passed on, lost and cut off so far."""
        self.pipe.send(None)
        return dict(self.pipe.recv())

    def end(self) -> None:
        self.process.kill()
        self.process.join()


def _switch(orders: Connection, seed: int) -> None:
    """Pass frames on until killed: to the port whose host has sent from that address, or to all."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # end with the process that started it
    chance, weather, ports, learned = random.Random(seed), Weather(), dict[str, int](), dict[bytes, str]()
    waiting: list[tuple[float, int, str, str, bytes]] = []  # when, in which order, from, to, frame
    numbers, counts = itertools.count(), {"passed": 0, "lost": 0, "cut": 0}
    selector = selectors.DefaultSelector()
    selector.register(orders, selectors.EVENT_READ, None)

    def send(source: str, target: str, frame: bytes) -> None:
        if frozenset((source, target)) in weather.cut:
            counts["cut"] += 1
            return
        with suppress(OSError, KeyError):  # a host that is down, or whose queue is full
            os.write(ports[target], frame)
            counts["passed"] += 1

    def take(source: str, frame: bytes) -> None:
        learned[frame[6:12]] = source
        known = learned.get(frame[:6])
        delay, loss = weather.slow.get(source, (0.0, 0.0))
        for target in [known] if known else [port for port in ports if port != source]:
            if loss and chance.random() < loss:
                counts["lost"] += 1
            elif delay:
                heapq.heappush(waiting, (time.monotonic() + delay, next(numbers), source, target, frame))
            else:
                send(source, target, frame)

    while True:
        rest = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for key, _ in selector.select(rest):
            if key.data is None:
                order = orders.recv()
                if isinstance(order, Weather):
                    weather = order
                elif order is None:
                    orders.send(counts)
                else:
                    if order in ports:
                        unplug(selector, ports.pop(order))
                    ports[order], name = _tap()
                    selector.register(ports[order], selectors.EVENT_READ, order)
                    orders.send(name)
                continue
            try:
                for _ in range(64):
                    take(key.data, os.read(key.fd, FRAME_BYTES))
            except BlockingIOError:
                pass
            except OSError:  # the interface is gone, or down
                unplug(selector, ports.pop(key.data))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, source, target, frame = heapq.heappop(waiting)
            send(source, target, frame)


def unplug(selector: selectors.BaseSelector, port: int) -> None:
    with suppress(KeyError, ValueError):
        selector.unregister(port)
    os.close(port)


def _tap() -> tuple[int, str]:
    """A new interface whose frames are read and written at the file, and its name."""
    file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    made = fcntl.ioctl(file, TUNSETIFF, struct.pack("16sH22x", b"host%d", TAP | NO_HEADER))
    return file, made[:16].rstrip(b"\0").decode()


class Lan:
    """The folder that all hosts see, their names, and the switch between them. Leaving the block ends all hosts."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder, self.switch, self.up = folder, Switch(seed), dict[str, Host]()
        self.own = folder / "own"  # the same path on every host, and another folder on each
        self.own.mkdir()
        known = [f"{address(name)} {name}" for name in NAMES]
        (folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *known, ""]))

    def __enter__(self) -> "Lan":
        return self

    def __exit__(self, *_: object) -> None:
        for host in list(self.up.values()):
            host.power_off()
        self.switch.end()

    def host(self, name: str) -> "Host":
        """The host of this name, switched on: it comes up without any of the processes that it had."""
        self.up[name] = Host(self, name)
        return self.up[name]

    def cut(self, a: str, b: str) -> None:
        """Let nothing through between two hosts."""
        self.switch.weather.cut.add(frozenset((a, b)))
        self.switch.changed()

    def join(self, a: str, b: str) -> None:
        self.switch.weather.cut.discard(frozenset((a, b)))
        self.switch.changed()

    def slow(self, host: str, seconds: float = 0.2, loss: float = 0.05) -> None:
        """Delay all that the host sends, and lose a share of it."""
        self.switch.weather.slow[host] = seconds, loss
        self.switch.changed()

    def fast(self, host: str) -> None:
        self.switch.weather.slow.pop(host, None)
        self.switch.changed()


def address(name: str) -> str:
    return f"{NETWORK}.{NAMES.index(name) + 1}"


class Host:
    """A host that is up."""

    def __init__(self, lan: Lan, name: str) -> None:
        self.lan, self.name, self.address = lan, name, address(name)
        own = lan.folder / name
        shutil.rmtree(own, ignore_errors=True)  # a start clears temporary files
        own.mkdir(mode=0o755)
        kinds = ("net", "uts", "ipc", "pid", "mount", "mount-proc", "fork", "kill-child")
        apart = ["setpriv", "--pdeathsig=KILL", "unshare", *(f"--{kind}" for kind in kinds)]
        log = lan.folder / f"{name}.boot"
        log.unlink(missing_ok=True)
        self.boot = Processes([*apart, "bash", "-c", BOOT, name, str(lan.folder)], log)
        wait_for(lambda: "up" in self.boot.output().split() or self.boot.process.poll() is not None, f"{name} boots")
        assert self.boot.process.poll() is None, self.boot.output()
        (init,) = psutil.Process(self.boot.process.pid).children()
        self.inside = ["nsenter", f"--target={init.pid}", "--all", f"--wdns={ROOT}"]
        interface = lan.switch.plug(name)
        subprocess.run(["ip", "link", "set", interface, "netns", str(init.pid)], check=True)
        for order in (
            f"link set {interface} name eth0 address 02:00:00:00:00:{NAMES.index(name) + 1:02x}",  # kept by a card
            f"address add {self.address}/24 dev eth0",
            "link set eth0 up",
            "route add default dev eth0",
        ):
            self.run("ip", *order.split())

    def start(self, command: list[str], log: Path, **environment: str) -> Processes:
        """A process of this host with all that it starts."""
        return Processes([*self.inside, *command], log, TMPDIR=str(self.lan.own), **environment)

    def run(self, *command: str) -> str:
        """What a command prints that this host runs to its end. Raises where it fails."""
        done = subprocess.run([*self.inside, *command], capture_output=True, text=True)
        assert done.returncode == 0, f"{self.name}: {' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def power_off(self) -> None:
        """End every process of the host at once; its interface goes with it."""
        self.boot.process.kill()  # takes the host's first process along, and that all others
        self.boot.process.wait()
        self.lan.up.pop(self.name, None)
