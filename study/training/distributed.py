"""Several processes that train one trial: which part of a batch each process has, and what they exchange.

Owns the sum over processes, the order to go on, and how processes meet. Knows no recipe, no data set, and not what
starts processes on other machines. One, two and eight processes give the same numbers to rounding: process r has part
r of every batch, in whole sub-batches of BatchNorm, and all of them make the same update.

Not PyTorch's DistributedDataParallel: that would take the first process's running averages for everyone's, and sums
gradients in buckets whose order depends on the pass. Here every update has one `all_reduce`, of all that is summed.
"""

import io
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import get_context, resource_tracker
from typing import Any

import psutil
import torch
from torch import Tensor, distributed, nn

from study.nets.resnet import BatchNorm

SUM_SECONDS = 300.0  # for all to bring their part of a sum; the first update of a compiled net may take minutes
ORDER_SECONDS = 7 * 86400.0  # to wait for an order: the first process evaluates, or waits for room on the disk
END_SECONDS = 20.0  # for the others to end by themselves
GO_ON, END = "go on", "end"  # orders


class LostProcess(RuntimeError):
    """Another process of the trial failed, died or is silent; the message says which, where that is known."""


class Group:
    """The processes of a trial, as one of them sees them. This one is the group of one, which changes no bit."""

    rank, size = 0, 1

    @property
    def first(self) -> bool:
        """Whether this is the process that evaluates, writes and decides."""
        return self.rank == 0

    def part(self, batch: int) -> slice:
        """The images of a batch that are this process's."""
        return slice(self.rank * batch // self.size, (self.rank + 1) * batch // self.size)

    def goes_on(self, more: bool) -> bool:
        """Whether there is another update. The first process decides; the others wait for its order."""
        return more

    def begin_pass(self, net: nn.Module) -> None:
        """Before a training pass."""

    def add_up(self, net: nn.Module, summed: Tensor, images: int) -> None:
        """After it: the net gets the whole batch's gradients and running averages, `summed` the sum over processes.

        Of this process's `images`, `summed` [n] are terms of the batch's values: of its loss, and of counts.
        """

    def share(self, value: Any, device: torch.device) -> Any:
        """The first process's value, of tensors, numbers and containers of them, with tensors on this device."""
        return value


ALONE = Group()


@dataclass(frozen=True)
class Meeting:
    """Where the processes of a trial find one another: the first one's machine and the port of its store."""

    host: str
    port: int


Ended = Callable[[], str]  # which of the other processes has ended, and how; '' while none has
Assist = Callable[[Meeting, int, str], None]  # the whole life of another process: meeting, rank, its machine's address


@dataclass(frozen=True)
class Peers:
    """How the other processes are started: within `start(size, meeting, assist)` they live, and they end with it."""

    address: str  # of this machine, as they reach it
    start: Callable[[int, Meeting, Assist], AbstractContextManager[Ended]]


class _Several(Group):
    """Processes that have met. Tensors are summed by a process group of PyTorch: NCCL where every process has a GPU of
    its own, else gloo. Orders go through the store, in which a process can wait for days: the first may be evaluating,
    or waiting for room on the disk.

    The process group is PyTorch's process-wide default, so a process is in one trial at a time; `close` ends it, also
    after a loss, so that a worker can run one trial after another.
    """

    def __init__(
        self, store: distributed.Store, rank: int, size: int, address: str, device: torch.device, lost: Ended
    ) -> None:
        """Returns when all have met. `lost` says what is known of a process that does not answer."""
        self.store, self.rank, self.size, self.lost = store, rank, size, lost
        self.orders = 0
        self.over = False
        store.set(f"here {rank}", _name(device, rank))
        names = {store.get(f"here {other}") for other in range(size)}  # waits
        alone_on_gpu = device.type == "cuda" and len(names) == size
        if alone_on_gpu:
            os.environ["TORCH_NCCL_BLOCKING_WAIT"] = "1"  # else a lost process would end this one, unexplained
        hook = sys.excepthook
        with self._naming_the_lost(), _gloo_listens_at(address):
            distributed.init_process_group(
                "nccl" if alone_on_gpu else "gloo",
                store=distributed.PrefixStore("group", store),
                rank=rank,
                world_size=size,
                timeout=timedelta(seconds=SUM_SECONDS),
            )
        sys.excepthook = hook  # PyTorch's would put the rank before every line of a traceback

    def goes_on(self, more: bool) -> bool:
        self.orders += 1
        with self._naming_the_lost():
            if self.first:
                self.store.set(f"order {self.orders}", GO_ON if more else END)
                self.store.delete_key(f"order {self.orders - 1}")  # the sum since then shows that all have read it
            else:
                more = self.store.get(f"order {self.orders}").decode() == GO_ON  # waits
        self.over = not more
        return more

    def begin_pass(self, net: nn.Module) -> None:
        """The first goes on from the running averages, the others from zero: parts of a sum, as in `add_up`."""
        if not self.first:
            torch._foreach_zero_([average for norm in _norms(net) for average in norm.buffers()])

    @torch.no_grad()
    def add_up(self, net: nn.Module, summed: Tensor, images: int) -> None:
        """Running averages r <- (1 - m) r + m x are linear, so those of all sub-batches in order are a sum, too.

        What a process made of its k sub-batches has faded by (1 - m)^k for each of the processes behind it.
        """
        tensors = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
        for norm in _norms(net):
            averages = list(norm.buffers())
            behind = images // norm.images * (self.size - 1 - self.rank)
            torch._foreach_mul_(averages, (1 - (norm.momentum or 0.0)) ** behind)
            tensors += averages
        tensors.append(summed)
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with self._naming_the_lost():
            distributed.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        torch._foreach_copy_(tensors, [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)])

    def share(self, value: Any, device: torch.device) -> Any:
        buffer = io.BytesIO()
        if self.first:
            torch.save(value, buffer)
        contents = [buffer.getvalue()]
        with self._naming_the_lost():
            distributed.broadcast_object_list(contents, src=0)
        return value if self.first else torch.load(io.BytesIO(contents[0]), map_location=device, weights_only=True)

    def end(self) -> None:
        """Of the first: let the others end, if the loop did not."""
        if not self.over:
            with suppress(LostProcess):  # whoever is lost has ended
                self.goes_on(False)

    @contextmanager
    def _naming_the_lost(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise LostProcess(self.lost() or f"another process of the trial does not answer: {error}") from error


@contextmanager
def _gloo_listens_at(address: str) -> Iterator[None]:
    """Let gloo use the network interface with this address, and no other one, for groups that the block makes."""
    interfaces = psutil.net_if_addrs().items()
    names = [name for name, addresses in interfaces if address in (known.address for known in addresses)]
    if not names:
        raise LostProcess(f"no network interface of this machine has the address {address}, by which processes meet")
    before = os.environ.get("GLOO_SOCKET_IFNAME")
    os.environ["GLOO_SOCKET_IFNAME"] = names[0]
    try:
        yield
    finally:
        del os.environ["GLOO_SOCKET_IFNAME"]
        if before is not None:
            os.environ["GLOO_SOCKET_IFNAME"] = before


def _leave_group() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _norms(net: nn.Module) -> list[BatchNorm]:
    return [module for module in net.modules() if isinstance(module, BatchNorm)]


def _name(device: torch.device, rank: int) -> str:
    """Of the device that a process computes on. NCCL refuses two processes on one GPU, which have the same name."""
    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else str(rank)


@contextmanager
def leading(size: int, peers: Peers, assist: Assist, device: torch.device) -> Iterator[Group]:
    """The group of `size` processes, in the first of them: the others live until the block is left.

    Raises `LostProcess`, also within the block, when one of them fails or dies.
    """
    if size == 1:
        yield ALONE
        return
    listener = socket.create_server((peers.address, 0))  # nobody elsewhere can reach 127.0.0.1
    meeting = Meeting(peers.address, listener.getsockname()[1])
    store = distributed.TCPStore(
        *(meeting.host, meeting.port), is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
    )
    with peers.start(size, meeting, assist) as ended:

        def lost(seconds: float = 2.0) -> str:
            """What is known of a process that failed; the death of one is known a moment later."""
            until = time.monotonic() + seconds
            while True:
                if store.check(["problem"]):
                    return store.get("problem").decode()
                if (how := ended()) or time.monotonic() > until:
                    return how
                time.sleep(0.05)

        while not store.check([f"here {rank}" for rank in range(1, size)]):
            if how := lost(0.0):
                raise LostProcess(how)
            time.sleep(0.05)
        try:
            group = _Several(store, 0, size, peers.address, device, lost)
            yield group
            group.end()
        finally:
            _leave_group()


@contextmanager
def assisting(meeting: Meeting, rank: int) -> Iterator[distributed.Store]:
    """In another process than the first: pass what fails within on to the first, which decides what follows."""
    store = distributed.TCPStore(
        meeting.host, meeting.port, timeout=timedelta(seconds=ORDER_SECONDS), wait_for_workers=False
    )
    try:
        yield store
    except LostProcess:  # the first is gone, or knows already
        pass
    except Exception as error:
        store.set("problem", f"process {rank} of the trial failed: {type(error).__name__}: {error}")
    finally:
        _leave_group()


def joined(store: distributed.Store, rank: int, size: int, address: str, device: torch.device) -> Group:
    """The group, in another process than the first; `address` is its machine's. Waits for all."""
    return _Several(store, rank, size, address, device, lambda: "")


@contextmanager
def spawned(size: int, meeting: Meeting, assist: Assist) -> Iterator[Ended]:
    """The other processes on this machine. A terminal's Ctrl-C and a batch system's SIGTERM do not reach them."""
    spawn = get_context("spawn")
    processes = [spawn.Process(target=assist, args=(meeting, rank, meeting.host)) for rank in range(1, size)]
    resource_tracker.ensure_running()  # which starting it later would unblock the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))  # inherited
    try:
        for process in processes:
            process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def ended() -> str:
        codes = {rank: process.exitcode for rank, process in enumerate(processes, start=1)}
        return ", ".join(
            f"process {rank} of the trial ended with {code}" for rank, code in codes.items() if code is not None
        )

    try:
        yield ended
        for process in processes:
            process.join(END_SECONDS)
    finally:
        for process in processes:
            process.kill()
            process.join()


HERE = Peers("127.0.0.1", spawned)
