"""Tool search at the gateway's paths: whether it is on, what it finds, and which call is meant.

A call of `call_tool` is replaced by the call that it asks for before anything is decided about it:
what follows cannot tell it from any other, and there is no second way to a tool.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import orjson

from registry.auth.identity import UserContext
from registry.core.json import JsonObject, dump_text, load_text, members
from registry.gateway.edge.eras import check_modern
from registry.gateway.edge.requests import GatewayRequest
from registry.gateway.errors import ArgumentsRefused, InvalidParams
from registry.gateway.protocol.envelope import Envelope
from registry.gateway.protocol.headers import MCP_NAME
from registry.gateway.view.offering import CombinedOffering
from registry.gateway.view.tool_search import (
    CALL_TOOL,
    DEFAULT_FOUND,
    DETAILS,
    FIND_TOOL,
    LIST_TOOLS,
    MAX_FOUND,
    MAX_TEXT_CHARACTERS,
    MIN_BUDGET,
    ListedTool,
    SearchedTools,
    SearchOffering,
    tokens_in,
)
from registry.gateway.view.toolsets import ToolsetOffering
from registry.search.ports import ToolFinder
from registry.tools.naming import SEPARATOR
from registry.upstream.sdk import encode_header_value

PARAMETER = "tools"
SUMMARY_CHARACTERS = 200
MAX_CALLED_CHARACTERS = 256
"""Longest name of a server or tool; none that is served is longer."""
MAX_QUERY_FIELDS = 20
CONTENT = b'{"content":[{"type":"text","text":%s}],"structuredContent":%s,"isError":false%s}'


class ToolsMode(StrEnum):
    """Which tools are listed at the paths of all servers and of toolsets."""

    ALL = "all"
    SEARCH = "search"


class _Wanted(NamedTuple):
    """The arguments of a search."""

    description: str
    keywords: str | None
    limit: int
    detail: str
    max_tokens: int | None


class ToolSearch:
    """Tool search, where it is on.

    Args:
        finder: Ranks tools; None where search is off.
        default: What holds where neither path nor token say otherwise.
        always_visible: Public names of tools that are listed beside.
    """

    def __init__(
        self,
        finder: ToolFinder | None,
        default: ToolsMode = ToolsMode.ALL,
        always_visible: Sequence[str] = (),
    ) -> None:
        self._finder = finder
        self._is_default = default is ToolsMode.SEARCH
        self._always_visible = always_visible

    def is_on(self, exchange: GatewayRequest, user: UserContext) -> bool:
        """Whether tools are searched: as the path says, else the token, else the setting.

        Raises:
            InvalidParams: The path says something else, or says it where it cannot be, or search
                is off.
        """
        query = exchange.scope.get("query_string")
        claimed = user.tools
        if not query and claimed is None and not self._is_default:
            return False
        asked = _asked(query) if query else None
        if exchange.slug:
            if asked is not None:
                raise InvalidParams(
                    f"?{PARAMETER}= is for /mcp and the paths of toolsets, not for one server's."
                )
            return False
        wanted = asked or claimed
        is_on = self._is_default if wanted is None else wanted == ToolsMode.SEARCH
        if is_on and self._finder is None:
            raise InvalidParams(
                "Tool search is off here (SEARCH_ENABLED=false): leave out ?tools=search, or use "
                "a token without it."
            )
        return is_on

    def offering(self, whole: CombinedOffering | ToolsetOffering) -> SearchOffering:
        """Return what a caller finds where *whole* is searched."""
        return SearchOffering(whole, self._always_visible)

    async def result(
        self, exchange: GatewayRequest, envelope: Envelope, offering: SearchOffering, name: str
    ) -> bytes:
        """Return the result of one of the tools that are answered here, as JSON text.

        Raises:
            ArgumentsRefused: An argument cannot be used.
        """
        arguments = _arguments(envelope.params, name)
        if name == LIST_TOOLS:
            detail = _detail(arguments)
            texts = [_text(one, detail) for one in offering.tools.all()]
            payload = b'{"tools":[%s]}' % b",".join(texts)
        else:
            payload = await self._found(_wanted(arguments), offering.tools)
        suffix = b',"resultType":"complete"' if exchange.is_modern else b""
        return CONTENT % (orjson.dumps(payload.decode()), payload, suffix)

    async def _found(self, wanted: _Wanted, tools: SearchedTools) -> bytes:
        assert self._finder is not None  # noqa: S101 - there is no such offering without one
        found = await self._finder.find(
            wanted.description, wanted.keywords, tools.candidates, wanted.limit
        )
        listed = [one for hit in found for one in tools.listed(hit.server_id, hit.name)]
        texts, returned = _within(listed[: wanted.limit], wanted.detail, wanted.max_tokens)
        baseline = tools.all_tokens
        # The names of servers are returned beside, which a short list has not.
        returned = min(returned, baseline)
        saved = baseline - returned
        metrics = {
            "baseline_tokens": baseline,
            "returned_tokens": returned,
            "tokens_saved": saved,
            "savings_percentage": saved / baseline * 100 if baseline else 0.0,
        }
        omitted = len(listed[: wanted.limit]) - len(texts)
        more = b',"omitted":%d' % omitted if omitted else b""
        return b'{"tools":[%s],"token_metrics":%s%s}' % (
            b",".join(texts),
            orjson.dumps(metrics),
            more,
        )


def is_wrapped(envelope: Envelope) -> bool:
    """Whether it is a call of `call_tool`."""
    return envelope.method == "tools/call" and envelope.params.get("name") == CALL_TOOL


def inner_call(exchange: GatewayRequest, envelope: Envelope) -> Envelope:
    """Return the call that a call of `call_tool` asks for, which *exchange* is from now on.

    It is always the same one for the same arguments, so that a repetition is recognised.

    Raises:
        ArgumentsRefused: An argument cannot be used.
        Refusal: The message is none of the stateless era.
    """
    if exchange.is_modern:
        # Its headers speak of the message as it was sent.
        check_modern(envelope, exchange.headers)
    arguments = _arguments(envelope.params, CALL_TOOL)
    server, tool = (_name(arguments, member) for member in ("server_name", "tool_name"))
    # A path, as people know it.
    server = server.removeprefix("/mcp/")
    beginning = f"{server}{SEPARATOR}"
    # Models also give the whole name of the combined list.
    name = tool if tool.startswith(beginning) else beginning + tool
    inner = _with(envelope, name, arguments.get("parameters"))
    exchange.envelope, exchange.params = inner, inner.params
    exchange.target = name
    exchange.is_wrapped = True
    if exchange.is_modern:
        exchange.headers[MCP_NAME] = encode_header_value(name)
    return inner


def outer_call(raw: bytes | bytearray) -> bytes:
    """Return the text of a call as a call of `call_tool` again, for another worker."""
    body = load_text(raw)
    params = members(body["params"])
    server, _, tool = str(params["name"]).partition(SEPARATOR)
    inner: JsonObject = {
        "server_name": server,
        "tool_name": tool,
        "parameters": params.get("arguments"),
    }
    body["params"] = {**params, "name": CALL_TOOL, "arguments": inner}
    return dump_text(body)


def _with(envelope: Envelope, name: str, parameters: object) -> Envelope:
    params = {**envelope.params, "name": name, "arguments": parameters}
    body = {**envelope.body, "params": params}
    if parameters is None:
        # As of a call without arguments.
        params["arguments"] = {}
    if envelope.is_canonical:
        return envelope._replace(params=params, body=body, raw=orjson.dumps(body))
    exact = load_text(envelope.raw)
    sent = members(exact["params"])
    given = members(sent.get("arguments")).get("parameters")
    sent |= {"name": name, "arguments": {} if given is None else given}
    return envelope._replace(params=params, body=body, raw=dump_text(exact))


def _asked(query: bytes) -> str | None:
    """Return what the path says of tools.

    Raises:
        InvalidParams: It is neither of what it can say.
    """
    try:
        fields = parse_qs(
            query.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS
        )
    except ValueError:
        raise InvalidParams("The query of the path has too many fields.") from None
    values = fields.get(PARAMETER)
    if values is None:
        return None
    if len(values) != 1 or values[0] not in {*ToolsMode}:
        raise InvalidParams(f"?{PARAMETER}= in the path must be given once: all or search.")
    return values[0]


def _arguments(params: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    arguments = params.get("arguments")
    if arguments is None:
        return {}
    if type(arguments) is not dict:
        raise InvalidParams(f"The arguments of {name} must be an object.")
    return arguments


def _name(arguments: Mapping[str, Any], member: str) -> str:
    value = arguments.get(member)
    if type(value) is not str or not value or len(value) > MAX_CALLED_CHARACTERS:
        raise ArgumentsRefused(
            f"{member}: {CALL_TOOL} needs a string of at most {MAX_CALLED_CHARACTERS} "
            f"characters, as {FIND_TOOL} returned it"
        )
    return value


def _wanted(arguments: Mapping[str, Any]) -> _Wanted:
    description, keywords = arguments.get("tool_description"), arguments.get("tool_keywords")
    for member, value in (("tool_description", description), ("tool_keywords", keywords)):
        if value is None and member == "tool_keywords":
            continue
        if type(value) is not str or len(value) > MAX_TEXT_CHARACTERS:
            raise ArgumentsRefused(
                f"{member}: {FIND_TOOL} needs a string of at most {MAX_TEXT_CHARACTERS} characters"
            )
    assert isinstance(description, str)  # noqa: S101 - just checked
    if not description.strip() and not (keywords or "").strip():
        raise ArgumentsRefused("tool_description: say what the tool should do")
    limit = _whole(arguments, "limit", 1, MAX_FOUND)
    return _Wanted(
        description,
        (keywords or "").strip() or None,
        DEFAULT_FOUND if limit is None else limit,
        _detail(arguments),
        _whole(arguments, "max_tokens", MIN_BUDGET, None),
    )


def _whole(arguments: Mapping[str, Any], member: str, least: int, most: int | None) -> int | None:
    value = arguments.get(member)
    if value is None:
        return None
    if type(value) is not int or value < least or (most is not None and value > most):
        upto = "" if most is None else f" and at most {most}"
        raise ArgumentsRefused(f"{member}: must be a whole number of at least {least}{upto}")
    return value


def _detail(arguments: Mapping[str, Any]) -> str:
    detail = arguments.get("detail")
    if detail is None:
        return DETAILS[-1]
    if detail not in DETAILS:
        raise ArgumentsRefused(f"detail: must be one of {', '.join(DETAILS)}")
    return str(detail)


def _within(
    tools: Sequence[ListedTool], detail: str, max_tokens: int | None
) -> tuple[list[bytes], int]:
    """Return the texts of as many tools as a budget has room for, and their tokens.

    One that is too long is cut to less detail, so that a better match is not left out for a worse.
    """
    texts: list[bytes] = []
    used = 0
    levels = DETAILS[DETAILS.index(detail) :: -1]
    for one in tools:
        for level in levels:
            text = _text(one, level)
            tokens = tokens_in(len(text))
            if max_tokens is None or used + tokens <= max_tokens:
                break
        else:
            break
        texts.append(text)
        used += tokens
    return texts, used


def _text(one: ListedTool, detail: str) -> bytes:
    """Return a tool as it is returned: its object, with the name of its server."""
    if detail == "full":
        whole = one.wire.rstrip()
        server = b'"mcp_server_name":%s}' % orjson.dumps(one.server)
        return whole[:-1] + (b"," if len(whole) > len(b"{}") else b"") + server
    shown: dict[str, object] = {"name": one.name, "mcp_server_name": one.server}
    if detail == "summary":
        described = load_text(one.wire)
        for member in ("title", "description"):
            value = described.get(member)
            if isinstance(value, str) and value:
                shown[member] = _first_sentence(value)
    return orjson.dumps(shown)


def _first_sentence(text: str) -> str:
    """Return the first sentence of a description, cut where it is long."""
    line = text.strip().split("\n", 1)[0]
    sentence = line.split(". ", 1)[0]
    return sentence if len(sentence) <= SUMMARY_CHARACTERS else sentence[:SUMMARY_CHARACTERS] + "…"
