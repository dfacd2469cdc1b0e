"""How soon vectors follow a rename and an unlink, without the model's own time.

The best of several attempts counts: other tests share the machine.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from packages.database.client import Database
from tests.search.embedding.world import HashModel, Replica


async def best_ms(attempts: int, work: Callable[[int], Awaitable[Any]]) -> float:
    """Return the least time that an attempt took."""
    taken: list[float] = []
    for number in range(attempts):
        began = time.perf_counter()
        await work(number)
        taken.append((time.perf_counter() - began) * 1000)
    return min(taken)


@pytest.mark.integration
@pytest.mark.requirement("R-342")
@pytest.mark.requirement("R-343")
async def test_a_hundred_tools_have_other_vectors_in_time(database: Database) -> None:
    # The model's own time is not counted: its vectors cost nothing here.
    replica = Replica(database, HashModel())
    replica.add_entry("Mail")
    server = replica.add_server("one", *(f"tool{n}" for n in range(100)), entry="Mail")
    await replica.settle()

    async def rename(number: int) -> None:
        replica.names["Mail"] = f"Post {number}"
        await replica.settle()

    renamed = await best_ms(4, rename)
    unlinked: list[float] = []
    for _ in range(4):
        server.entry = None
        unlinked.append(await best_ms(1, lambda _: replica.settle()))
        server.entry = "Mail"
        await replica.settle()

    assert renamed < 500
    assert min(unlinked) < 200
