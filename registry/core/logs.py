"""Structured logging: JSON lines with the request's id, and secrets masked."""

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Literal

import structlog

MASK = "***"
SECRET_KEYS = re.compile(
    r"(?i)(authorization|cookie|password|secret|token$|api[_-]?key|private[_-]?key|creds|credential"
    r"|^key$|mongo_uri)"
)
"""Keys whose values are always masked."""
SECRET_TEXT = re.compile(
    r"(?i)(bearer\s+)[^\s\"',]+"
    r"|(eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
    r"|((?:mongodb(?:\+srv)?|https?)://)[^@/\s\"']+@"
    r"|([?&](?:[\w-]*(?:key|token|secret|password|signature)|sig|code)=)[^&#\s\"']+"
)
"""Bearer values, JWTs, and credentials in URLs inside longer text."""


def redact(
    _logger: object, _name: str, event: MutableMapping[str, object]
) -> Mapping[str, object]:
    """Mask secrets in one log event (a structlog processor)."""
    return {key: _redacted(key, value) for key, value in event.items()}


def without_secrets(text: str) -> str:
    """Return *text* with tokens, and credentials in URLs, masked."""
    return SECRET_TEXT.sub(_mask_match, text)


def _redacted(key: str, value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if SECRET_KEYS.search(key):
        return MASK
    if isinstance(value, str):
        return SECRET_TEXT.sub(_mask_match, value)
    if isinstance(value, Mapping):
        return {str(inner): _redacted(str(inner), item) for inner, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(key, item) for item in value]
    return SECRET_TEXT.sub(_mask_match, str(value))


def _mask_match(match: re.Match[str]) -> str:
    if match[1]:
        return match[1] + MASK
    if match[3]:
        return f"{match[3]}{MASK}@"
    if match[4]:
        return match[4] + MASK
    return MASK


SILENCED = ("mcp", "httpx2", "httpcore2")
"""Libraries that log what upstreams send, including keys. Our own events report what matters."""


CALL_FACTS = ("server", "tool", "outcome", "duration_ms", "error_code")
"""Facts of a `gateway_call` that are shown on a terminal."""


def for_one_reader(
    _logger: object, method: str, event: MutableMapping[str, object]
) -> Mapping[str, object]:
    """Keep only calls and warnings, for local mode on a terminal (a structlog processor)."""
    if event.get("event") == "gateway_call":
        kept = ("event", "level", "timestamp", *CALL_FACTS)
        return {name: event[name] for name in kept if name in event}
    if method in {"debug", "info"}:
        raise structlog.DropEvent
    return event


def configure_logging(
    level: str, log_format: Literal["auto", "json", "console"], *, is_local: bool = False
) -> None:
    """Send the events of structlog and of the standard library to standard error.

    Args:
        level: Least severity that is logged.
        log_format: `auto` is text for people on a terminal, and JSON elsewhere.
        is_local: On a terminal, leave out what only operators of servers read.
    """
    is_terminal = sys.stderr.isatty()
    is_json = log_format == "json" or (log_format == "auto" and not is_terminal)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redact,
    ]
    if is_local and not is_json and level != "debug":
        shared.append(for_one_reader)
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if is_json
        else structlog.dev.ConsoleRenderer(colors=is_terminal)
    )
    severity = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(severity),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared[:2], structlog.stdlib.ExtraAdder(), *shared[2:]],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    for name in SILENCED:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(severity, logging.WARNING))
