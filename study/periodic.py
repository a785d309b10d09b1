"""Something done every so many seconds while something else runs. Standard library only."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def every(seconds: float | Callable[[], float], act: Callable[[], object], wait: bool = True) -> Iterator[None]:
    """Call `act` every so many seconds, in a thread, until the block ends.

    The first call comes after the first pause. A function as `seconds` is asked before each pause. Leaving the block
    waits for a call that is under way, unless `wait` is false; the thread never keeps the process alive.
    """
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(seconds() if callable(seconds) else seconds):
            act()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        if wait:
            thread.join()
