"""Run the benchmark: `python -m scripts.bench [--only SECTIONS] [--long]`.

Everything is measured in one run on one machine, targets in turn within each round, and quoted
as the median of the rounds with the least and the greatest value.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable, Mapping

from scripts.bench import (
    access,
    approvals,
    beside,
    calls,
    definitions,
    embeddings,
    finding,
    governance,
    growth,
    isolation,
    limits,
    listing,
    lists,
    memory,
    pages,
    readiness,
    rest,
    search,
    streams,
    syncing,
    tokens,
    workers,
)
from scripts.bench.plan import Plan
from scripts.bench.report import Report
from scripts.bench.stage import Stage, staged

SECTIONS: Mapping[str, Callable[[Report, Stage, Plan], None]] = {
    "calls": calls.section,
    "tokens": tokens.section,
    "list": lists.section,
    "isolation": isolation.section,
    "streams": streams.section,
    "growth": growth.section,
    "definitions": definitions.section,
    "fleet": memory.section,
    "workers": workers.section,
    "pages": pages.section,
    "access": access.section,
    "governance": governance.section,
    "limits": limits.section,
    "approvals": approvals.section,
    "readiness": readiness.section,
    "sync": syncing.section,
    "lists": listing.section,
    "search": search.section,
    "rest": rest.section,
    "beside": beside.section,
    "embeddings": embeddings.section,
    "finding": finding.section,
}


def main() -> None:
    """Run everything, or what is wanted, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5, help="of each figure")
    parser.add_argument("--only", type=_sections, default=[*SECTIONS], metavar=",".join(SECTIONS))
    parser.add_argument("--long", action="store_true", help="the full 200,000 calls and sessions")
    parser.add_argument(
        "--fastmcp", help="interpreter of an environment of its own that has FastMCP"
    )
    options = parser.parse_args()
    plan = Plan(options.seconds, options.rounds, options.long, options.fastmcp)
    report = Report()
    began_at = time.monotonic()
    report.section(_machine())
    for name in options.only:
        section_began_at = time.monotonic()
        with staged() as stage:
            SECTIONS[name](report, stage, plan)
        report.fact(f"{name}: {time.monotonic() - section_began_at:.0f} s, {_load()}")
    report.table()
    print(f"{time.monotonic() - began_at:.0f} s, {_load()}")


def _sections(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        raise argparse.ArgumentTypeError(f"there is no {', '.join(unknown)}")
    return names


def _machine() -> str:
    return (
        f"{os.cpu_count()} processors ({platform.machine()}), "
        f"Python {platform.python_version()}, {_load()}"
    )


def _load() -> str:
    return "load average {:.2f} {:.2f} {:.2f}".format(*os.getloadavg())


if __name__ == "__main__":
    main()
