"""What is done every so many seconds is done while the block runs, and never after it."""

import time

from study.periodic import every


def test_it_is_done_again_and_again_until_the_block_ends() -> None:
    calls: list[float] = []
    with every(0.01, lambda: calls.append(time.monotonic())):
        until = time.monotonic() + 10
        while len(calls) < 3 and time.monotonic() < until:
            time.sleep(0.005)
    ended = len(calls)
    time.sleep(0.05)
    assert ended >= 3 and len(calls) == ended


def test_the_pause_may_change_and_no_call_comes_before_the_first() -> None:
    calls: list[int] = []
    pauses = iter([0.0, 0.0, 60.0])
    with every(lambda: next(pauses), lambda: calls.append(1)):
        time.sleep(0.2)
    assert len(calls) == 2
    with every(60.0, lambda: calls.append(1)):
        pass
    assert len(calls) == 2
