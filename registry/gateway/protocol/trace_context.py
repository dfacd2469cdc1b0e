"""W3C Trace Context and Baggage: what may pass from a client to a server. Pure.

Sources: https://www.w3.org/TR/trace-context/, https://www.w3.org/TR/baggage/, and MCP's SEP-414,
which puts the same three texts into `params._meta`. There they are about the message rather than
the HTTP request, so a call is recorded under them. Bodies are never rewritten: missing headers
are filled from `_meta`, and never the other way round.
"""

import re
from typing import NamedTuple

from registry.gateway.protocol.headers import Headers

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
BAGGAGE = "baggage"

VERSION_0_CHARACTERS = 55
MAX_TRACEPARENT_CHARACTERS = 512
MAX_TRACESTATE_CHARACTERS = 4096
"""The specification allows truncation above 512 characters; this limit only drops what no sender
uses."""
MAX_TRACESTATE_MEMBERS = 32
MAX_BAGGAGE_CHARACTERS = 8192
MAX_BAGGAGE_MEMBERS = 180

_TRACEPARENT = re.compile(
    r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[\x21-\x7e]*)?"
)
_STATE_MEMBER = re.compile(
    # Level 2 of the specification: a key with or without a tenant, and a printable value.
    r"[a-z0-9][a-z0-9_*/@-]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_BAGGAGE_VALUE = r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*"
_BAGGAGE_ENTRY = re.compile(rf"({_WORD})[ \t]*=[ \t]*{_BAGGAGE_VALUE}")
_BAGGAGE_PROPERTY = re.compile(rf"{_WORD}(?:[ \t]*=[ \t]*{_BAGGAGE_VALUE})?")
_NO_TRACE = "0" * 32
_NO_SPAN = "0" * 16


class TraceContext(NamedTuple):
    """The span that a request belongs to, as its sender names it.

    Attributes:
        trace_id: 32 hexadecimal characters.
        span_id: 16 hexadecimal characters.
        flags: Bit 0: the sender records this trace.
        state: `tracestate`; empty without one.
    """

    trace_id: str
    span_id: str
    flags: int
    state: str = ""

    @property
    def traceparent(self) -> str:
        """Return the header that names this span."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"


def clean_context(headers: Headers, meta: object) -> TraceContext | None:
    """Reduce *headers* to what may go upstream, and return the context of the call.

    A malformed header is removed; a missing one is taken from *meta*, if it is well
    formed there.

    Args:
        headers: The client's, by lower-case name; modified in place.
        meta: The member `params._meta`, of any type.

    Returns:
        The context in *meta*, else that in the headers, else None.
    """
    sent = _clean_headers(headers)
    if type(meta) is not dict or not (TRACEPARENT in meta or BAGGAGE in meta):
        return sent
    inner = _read(meta.get(TRACEPARENT), meta.get(TRACESTATE))
    if sent is None and inner is not None:
        headers[TRACEPARENT] = meta[TRACEPARENT]
        if inner.state:
            headers[TRACESTATE] = inner.state
    if BAGGAGE not in headers and is_baggage(meta.get(BAGGAGE)):
        headers[BAGGAGE] = meta[BAGGAGE]
    return inner or sent


def _clean_headers(headers: Headers) -> TraceContext | None:
    sent = None
    if TRACEPARENT in headers or TRACESTATE in headers:
        sent = _read(headers.get(TRACEPARENT), headers.get(TRACESTATE))
        if sent is None:
            headers.pop(TRACEPARENT, None)
        if sent is None or not sent.state:
            # `tracestate` has no meaning without `traceparent`.
            headers.pop(TRACESTATE, None)
    if BAGGAGE in headers and not is_baggage(headers[BAGGAGE]):
        del headers[BAGGAGE]
    return sent


def _read(traceparent: object, tracestate: object) -> TraceContext | None:
    context = parse_traceparent(traceparent)
    if context is not None and is_tracestate(tracestate):
        return context._replace(state=str(tracestate))
    return context


def parse_traceparent(value: object) -> TraceContext | None:
    """Parse a `traceparent`; None if it is malformed.

    Later versions may have further fields at the end.
    """
    if type(value) is not str or len(value) > MAX_TRACEPARENT_CHARACTERS:
        return None
    match = _TRACEPARENT.fullmatch(value)
    if match is None:
        return None
    version, trace_id, span_id, flags = match.group(1, 2, 3, 4)
    if version == "ff" or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    if version == "00" and len(value) != VERSION_0_CHARACTERS:
        return None
    return TraceContext(trace_id, span_id, int(flags, 16))


def is_tracestate(value: object) -> bool:
    """Whether *value* is a valid list of vendors' entries, each vendor at most once."""
    if type(value) is not str or len(value) > MAX_TRACESTATE_CHARACTERS:
        return False
    members = [stripped for member in value.split(",") if (stripped := member.strip(" \t"))]
    keys = {member.partition("=")[0] for member in members}
    return (
        0 < len(members) <= MAX_TRACESTATE_MEMBERS
        and len(keys) == len(members)
        and all(_STATE_MEMBER.fullmatch(member) for member in members)
    )


def is_baggage(value: object) -> bool:
    """Whether *value* is a valid list of names with values."""
    if type(value) is not str or len(value) > MAX_BAGGAGE_CHARACTERS:
        return False
    members = value.split(",")
    return len(members) <= MAX_BAGGAGE_MEMBERS and all(_is_baggage_member(m) for m in members)


def _is_baggage_member(member: str) -> bool:
    # Split first and match then: one pattern for everything could backtrack over blanks.
    entry, *properties = (part.strip(" \t") for part in member.split(";"))
    return _BAGGAGE_ENTRY.fullmatch(entry) is not None and all(
        _BAGGAGE_PROPERTY.fullmatch(part) for part in properties
    )
