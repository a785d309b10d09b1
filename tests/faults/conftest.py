"""What every fault test is held against, and how it starts launches."""

from collections.abc import Callable, Iterator

import common
import pytest


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> common.Results:
    return common.undisturbed_study(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def start() -> Iterator[Callable[..., common.Study]]:
    with common.launching() as starting:
        yield starting
