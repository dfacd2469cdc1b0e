"""For tests in which the server is away."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture
def collected() -> Iterator[None]:
    """Collect garbage before the next test.

    The driver leaves the socket of a connection attempt open when it is closed meanwhile. Use it
    with `filterwarnings`, so that the warning reaches no other test.
    """
    yield
    gc.collect()
