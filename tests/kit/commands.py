"""Commands that an application sent to the database."""

import asyncio

from registry.core.clock import SystemClock
from registry.core.metrics import Metrics

OWN_TRAFFIC = frozenset({"getMore"})
"""The change stream's heartbeat, which no call causes."""


def commands(metrics: Metrics) -> dict[str, float]:
    """Return how many commands of each kind were sent to the database so far."""
    samples = [
        sample
        for metric in metrics.database_commands.collect()
        for sample in metric.samples
        if sample.name.endswith("_count")
    ]
    counts: dict[str, float] = {}
    for sample in samples:
        name = sample.labels["command"]
        if name not in OWN_TRAFFIC:
            counts[name] = counts.get(name, 0) + sample.value
    return counts


async def settled(metrics: Metrics) -> dict[str, float]:
    """Return the counts once all that happened before was followed, and sealed."""
    async with asyncio.timeout(30):
        counts = commands(metrics)
        while True:
            await SystemClock().sleep(1.5)
            if commands(metrics) == counts:
                return counts
            counts = commands(metrics)
