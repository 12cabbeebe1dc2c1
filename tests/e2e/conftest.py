from collections.abc import Iterator

import pytest

from tests.served import Served, serve


@pytest.fixture(scope="session")
def demo() -> Iterator[Served]:
    """The demo model on a real engine, one for the whole run."""
    with serve("--model", "demo", "--preload") as served:
        yield served
