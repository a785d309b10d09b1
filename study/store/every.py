"""Something done every so many seconds, in a thread, while a block runs. Standard library only."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def every(seconds: float | Callable[[], float], action: Callable[[], object]) -> Iterator[None]:
    """Call `action` every so many seconds until the block is left, first after one such time.

    A period that changes is given as a function. Leaving the block waits for a call that is under way. What `action`
    raises ends the thread, not the block.
    """
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(seconds() if callable(seconds) else seconds):
            action()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
