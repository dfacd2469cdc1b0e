"""What a client is told of a request that failed, in whichever form it is told."""

from typing import Any

import httpx

from registry.gateway.edge.error_responses import ERROR_META_KEY


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """Return the JSON-RPC error of an answer, or that of a tool's failed result."""
    body = answer.json()
    if "error" in body:
        return dict(body["error"])
    result = body["result"]
    assert result["isError"] is True
    [block] = result["content"]
    data = dict(result["_meta"][ERROR_META_KEY])
    return {"code": data.pop("code"), "message": block["text"], "data": data}


def outcome(answer: httpx.Response) -> int:
    """Return the code of what failed, which is told with the status 200, or else the status."""
    if answer.status_code != httpx.codes.OK or not _is_failed(answer):
        return answer.status_code
    return int(error_of(answer)["code"])


def _is_failed(answer: httpx.Response) -> bool:
    if not answer.headers.get("content-type", "").startswith("application/json"):
        return False
    body = answer.json()
    return "error" in body or "isError" in body.get("result", {})
