"""What each caller's own access token costs a call, beside a stored API key for all of them."""

import asyncio

from scripts.bench.calls import BUSY
from scripts.bench.load import Target, requests_of, run
from scripts.bench.plan import Plan
from scripts.bench.process import cpu_seconds
from scripts.bench.report import Bar, Report
from scripts.bench.stage import HOST, Stage

KEYED, OWN = "keyed", "own-token"
KEY = "k" * 40


def section(report: Report, stage: Stage, plan: Plan) -> None:
    """Measure the same calls to two servers, in turn."""
    url = f"http://{HOST}:{stage.upstream_port}/mcp"
    key = {"key": KEY, "source": "admin", "authorization_type": "bearer"}
    stage.ask("servers", {"serverName": KEYED, "url": url, "apiKey": key})
    origin = f"http://{HOST}:{stage.upstream_port}"
    oauth = {"authorization_url": f"{origin}/authorize", "token_url": f"{origin}/token"}
    server = {"serverName": OWN, "url": url, "requiresOAuth": True, "oauth": oauth}
    server_id = stage.ask("servers", server)["id"]
    # Tokens that are older than their server are those of a former one.
    stage.ask(
        "tokens",
        {
            "type": "oauth_access",
            "identifier": OWN,
            "token": KEY,
            "metadata": {"server_name": OWN},
        },
    )
    stage.ask(f"servers/{server_id}/refresh", {})
    spent: dict[str, list[float]] = {KEYED: [], OWN: []}
    errors = 0
    for _ in range(plan.rounds):
        for name, values in spent.items():
            target: Target = stage.gateway(f"/mcp/{name}")
            before = cpu_seconds(stage.pid)
            result = asyncio.run(run(target, BUSY, plan.seconds))
            values.append((cpu_seconds(stage.pid) - before) / requests_of(result, BUSY) * 1000)
            errors += result.errors
    report.section("tools/call with each caller's own access token")
    report.row("CPU of a call with a stored API key", spent[KEYED], "ms")
    report.row("CPU of a call with an access token", spent[OWN], "ms")
    ratios = [own / keyed for own, keyed in zip(spent[OWN], spent[KEYED], strict=True)]
    report.row("CPU with an access token / with an API key", ratios, bar=Bar(1.1))
    report.errors(errors)
