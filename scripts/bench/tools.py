"""What a page of `GET /registry/tools` takes against its query through the bare driver.

Time, not processor time: with a hundred thousand tools it is the database that works.
"""

import statistics
import time
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

from bson import ObjectId
from pymongo import MongoClient
from pymongo.collection import Collection

from registry.core.clock import SystemClock
from registry.governance.queries import SORT, ListQuery, list_query
from registry.governance.values import Sight, ToolFilter
from registry.tools.exposure import REVIEWS
from registry.tools.values import ExposureState, RegistrationState
from scripts.bench.plan import Plan
from scripts.bench.report import Bar, Report
from scripts.bench.stage import HOST, Stage

TOOLS = 100_000
OWNERS = 2_000
BATCH = 5_000
PAGE = 50
ANSWER_SECONDS = 120.0
EVERYTHING = Sight(everything=True)


def section(report: Report, stage: Stage, plan: Plan) -> None:
    """Store a hundred thousand tools, and read a page by each filter."""
    owner = _fill(stage.mongo_uri)
    filters: Mapping[str, tuple[str, ToolFilter]] = {
        "none": ("", ToolFilter()),
        "owner_id": (f"owner_id={owner}", ToolFilter(owner_id=owner)),
        "source_type": ("source_type=mcp", ToolFilter(source_type="mcp")),
        "registration_state": (
            "registration_state=unselected",
            ToolFilter(registration_state=RegistrationState.UNSELECTED),
        ),
        "exposure_state": (
            "exposure_state=active",
            ToolFilter(exposure_state=ExposureState.ACTIVE),
        ),
        "review": ("review=pending", ToolFilter(reviews=REVIEWS)),
        "review=change": ("review=change", ToolFilter(reviews=("change",))),
        "tag": ("tag=billing", ToolFilter(tags=("billing",))),
        "cost_tier": ("cost_tier=high", ToolFilter(flags={"cost_tier": "high"})),
        "read_only": ("read_only=true", ToolFilter(flags={"read_only": True})),
        "text": ("query=tool_777", ToolFilter(text="tool_777")),
        "stale, disabled": (
            "include_stale=true&include_disabled=true",
            ToolFilter(with_stale=True, with_disabled=True),
        ),
    }
    report.section(f"GET /registry/tools, page of {PAGE} out of {TOOLS:,}")
    ratios: list[float] = []
    with MongoClient[dict[str, Any]](stage.mongo_uri) as client:
        tools = client.get_default_database()["mcp_tools"]
        for name, (query, narrowed) in filters.items():
            ours: list[float] = []
            bare: list[float] = []
            for _ in range(min(plan.rounds, 3)):
                began_at = time.perf_counter()
                _ask(stage, query)
                between = time.perf_counter()
                wanted = list_query(EVERYTHING, narrowed)
                _bare(tools, wanted)
                ours.append((between - began_at) * 1000)
                bare.append((time.perf_counter() - between) * 1000)
            ratio = statistics.median(ours) / statistics.median(bare)
            ratios.append(ratio)
            report.row(f"{name}: page", ours, "ms")
            report.row(f"{name}: the same query through the driver", bare, "ms")
    label = "time of `GET /registry/tools` / the same query through the driver"
    report.row(label, ratios, bar=Bar(2))


def _bare(tools: Collection[dict[str, Any]], wanted: ListQuery) -> None:
    """Count what is wanted and read a page of it."""
    if wanted.alternatives:
        list(tools.aggregate([*wanted.stages, {"$count": "total"}]))
        list(tools.aggregate([*wanted.stages, {"$sort": dict(SORT)}, {"$limit": PAGE}]))
        return
    by: dict[str, Any] = {} if wanted.hint is None else {"hint": wanted.hint}
    tools.count_documents(wanted.found_by, **by)
    list(tools.find(wanted.found_by, sort=SORT, limit=-PAGE, **by))


def _ask(stage: Stage, query: str) -> None:
    url = f"http://{HOST}:{stage.port}/api/v1/registry/tools?per_page={PAGE}&{query}"
    headers = {"Authorization": f"Bearer {stage.token}"}
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:  # noqa: S310 - ours
        answer.read()


def _fill(uri: str) -> str:
    """Store tools of many owners that are not served; return the id of one owner."""
    owners = [ObjectId() for _ in range(OWNERS)]
    with MongoClient[dict[str, Any]](uri) as client:
        tools = client.get_default_database()["mcp_tools"]
        batch: list[dict[str, Any]] = []
        for row in _rows(owners):
            batch.append(row)
            if len(batch) == BATCH:
                tools.insert_many(batch, ordered=False)
                batch = []
    return str(owners[3])


def _rows(owners: list[ObjectId]) -> Iterator[dict[str, Any]]:
    now = SystemClock().now()
    for number in range(TOOLS):
        is_served, is_read_only = bool(number % 10), not number % 3
        facets = [f"read_only:{str(is_read_only).lower()}"]
        if not number % 1_000:
            facets.append("cost_tier:high")
        tags = [] if number % 700 else ["billing"]
        name = f"tool_{number}"
        yield {
            "_id": ObjectId(),
            "source_type": "mcp",
            "owner_id": owners[number % OWNERS],
            "name": name,
            "external_id": name,
            "description": "Searches the records of this service. " * 5,
            "definition": f'{{"name":"{name}","inputSchema":{{"type":"object"}}}}',
            "input_schema": '{"type":"object"}',
            "registration_state": "selected" if is_served else "unselected",
            "exposure_state": "active" if is_served else "draft",
            "discovery_hash": "0" * 64,
            "served_version": 1,
            "versions": 1,
            "tool_metadata": {},
            "metadata": {"read_only": is_read_only},
            "metadata_sources": {"read_only": "upstream"},
            "facets": [
                *facets,
                *(f"tag:{tag}" for tag in tags),
                *([] if is_served else ["review:new"]),
            ],
            **({"tags": tags} if tags else {}),
            **({} if is_served else {"review": "new"}),
            "position": number // OWNERS,
            "last_discovered_at": now,
            "last_synced_at": now,
            "created_at": now,
            "updated_at": now,
        }
