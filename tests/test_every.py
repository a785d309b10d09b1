"""What is done every so many seconds is done while its block runs, and not after."""

import time

import pytest

from study.store.every import every


def test_an_action_is_repeated_in_the_block_and_never_after_it() -> None:
    calls: list[float] = []
    with every(lambda: 0.01 if len(calls) < 3 else 60.0, lambda: calls.append(time.monotonic())):
        until = time.monotonic() + 10
        while len(calls) < 3 and time.monotonic() < until:
            time.sleep(0.01)
        left = time.monotonic()
    assert len(calls) == 3 and time.monotonic() - left < 10  # it does not sit out a long period
    with pytest.raises(KeyError), every(0.01, lambda: calls.append(0.0)):
        raise KeyError
    before = len(calls)
    time.sleep(0.05)
    assert len(calls) == before
