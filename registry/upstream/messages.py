"""Write JSON-RPC messages, and read them so that one object of a list costs no other. Pure.

A parser refuses a whole message for one string, one number or one depth that it does not take. So
the objects of lists are read each by itself when not all can be read at once.
"""

import contextlib
import json
import re
from collections.abc import Callable
from typing import Any

import orjson
from pydantic_core import SchemaValidator, core_schema

from registry.core.definitions import MAX_DEPTH, NO_NUMBER, TOO_DEEP, Listed, UnreadableDefinition
from registry.core.json import JsonObject, JsonValue, dump_text, load_text, nesting

RESULT = "result"
LISTS = frozenset({"tools", "prompts", "resources", "resourceTemplates"})
"""Members of results whose objects are kept apart."""

IDENTIFYING = frozenset({"name", "uri", "uriTemplate"})
"""Members that identify an object."""

MAX_STEPS = 100_000
"""Members that are read one by one in one message. Far more than messages have, and a bound for
one that is made to keep us busy."""

Value = tuple[Any, int]
"""A value, and where its text ends."""


class RepeatedMemberError(Exception):
    """An object has two members of one name, of which every parser may take another."""


class NoMessageError(Exception):
    """A text is no JSON-RPC message."""


def request_text(
    method: str, params: JsonObject | None, request_id: str | int, *, is_exact: bool
) -> bytes:
    """Return the text of a request.

    Args:
        method: JSON-RPC method.
        params: None for none.
        request_id: As the receiver will know it.
        is_exact: Whether *params* were parsed by a parser that loses nothing of them with orjson.
    """
    message: JsonObject = {"jsonrpc": "2.0", "id": request_id, "method": method}
    if params is not None:
        message["params"] = params
    return orjson.dumps(message) if is_exact else dump_text(message)


def notification_text(method: str, params: JsonObject | None = None) -> bytes:
    """Return the text of a notification."""
    message: JsonObject = {"jsonrpc": "2.0", "method": method}
    if params is not None:
        message["params"] = params
    return orjson.dumps(message)


def result_text(request_id: object, result: JsonObject) -> bytes:
    """Return the text of a result."""
    return orjson.dumps({"jsonrpc": "2.0", "id": request_id, "result": result})


def error_text(request_id: object, code: int, message: str) -> bytes:
    """Return the text of an error answer."""
    error = {"code": code, "message": message}
    return orjson.dumps({"jsonrpc": "2.0", "id": request_id, "error": error})


def read_message(raw: bytes, max_items: int) -> JsonObject | None:
    """Return the message *raw*; None when it is none.

    Objects of its lists that cannot be read are `UnreadableDefinition`. Of all else, what cannot
    be read or kept is None.

    Args:
        raw: Text of one message.
        max_items: Objects of one list that are read; of more, one is, to show that there are more.
    """
    # What is no UTF-8 becomes halves of pairs: characters that nothing stores.
    text = raw.decode(errors="surrogateescape")
    try:
        _READABLE.validate_json(raw)
        message = _STRICT.decode(text)
    except (ValueError, RepeatedMemberError):
        try:
            message = _Careful(text, max_items).message()
        except (ValueError, NoMessageError):
            return None
    if not isinstance(message, dict):
        return None
    result = message.get(RESULT)
    if not isinstance(result, dict):
        return _storable(message)
    lists = {name: result[name] for name in LISTS if isinstance(result.get(name), list)}
    del message[RESULT]
    rest = {name: value for name, value in result.items() if name not in lists}
    return {**_storable(message), RESULT: {**_storable(rest), **lists}}


def _storable(members: JsonObject) -> JsonObject:
    shallow = {
        name: None if nesting(value, MAX_DEPTH) > MAX_DEPTH else value
        for name, value in members.items()
    }
    text = json.dumps(shallow, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return load_text(text.encode(errors="replace"))
    return shallow


def _object(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise RepeatedMemberError
    return members


_READABLE = SchemaValidator(core_schema.typed_dict_schema({}))
"""Reads an object without making anything of it. Refuses depths at which Python's own parser could
overrun the stack, which in a thread is small on some systems."""

_STRICT = json.JSONDecoder(object_pairs_hook=_object)
_LENIENT = json.JSONDecoder()

_STRING = r'"(?:[^"\\]++|\\.)*+"'
_PLAIN = rf'(?:[^"{{}}\[\]]++|{_STRING})*+'
_LEAF = rf"[{{\[]{_PLAIN}[}}\]]"
_RUN = re.compile(
    rf'(?:[^"{{}}\[\]]++|{_STRING}|{_LEAF})*+'
    rf"(?:(?P<opens>(?:[{{\[]{_PLAIN})++)|(?P<closes>(?:[}}\]]{_PLAIN})++))",
    re.DOTALL,
)
"""As much as opens or closes in a row: a million brackets are one step, and nothing recurses."""

_A_STRING = re.compile(_STRING, re.DOTALL)
_SCALAR = re.compile(r"[^\s,:{}\[\]\"]++")
_SPACE = re.compile(r"[ \t\n\r]*+")


class _Careful:
    """Reads a message step by step, down to the objects of its lists, and each of them alone."""

    def __init__(self, text: str, max_items: int) -> None:
        self._text = text
        self._max_items = max_items
        self._steps_left = MAX_STEPS

    def message(self) -> JsonObject:
        """Return the message; what cannot be read of it is None.

        Raises:
            NoMessageError: The text is no JSON object.
            ValueError: The text is malformed, or too deep.
        """
        message: JsonObject = {}
        end = self._members(self._past_space(0), message, self._of_message)
        if self._past_space(end) < len(self._text):
            raise NoMessageError
        return message

    def _of_message(self, name: str, at: int) -> Value:
        if name != RESULT or self._text[at : at + 1] != "{":
            return self._value(at)
        result: JsonObject = {}
        return result, self._members(at, result, self._of_result)

    def _of_result(self, name: str, at: int) -> Value:
        if name not in LISTS or self._text[at : at + 1] != "[":
            return self._value(at)
        return self._items(at)

    def _members(self, at: int, into: JsonObject, read: Callable[[str, int], Value]) -> int:
        """Read the object at *at*, its values with *read*, and return where it ends."""
        at = self._past_space(self._past("{", at))
        if self._text.startswith("}", at):
            return at + 1
        while self._steps_left > 0:
            self._steps_left -= 1
            name, at = self._string(at)
            at = self._past(":", self._past_space(at))
            into[name], at = read(name, self._past_space(at))
            at = self._past_space(at)
            if self._text.startswith("}", at):
                return at + 1
            at = self._past_space(self._past(",", at))
        raise NoMessageError

    def _items(self, at: int) -> Value:
        items: list[Listed] = []
        at = self._past_space(at + 1)
        if self._text.startswith("]", at):
            return items, at + 1
        while len(items) <= self._max_items:
            item, at = self._item(at)
            items.append(item)
            at = self._past_space(at)
            if self._text.startswith("]", at):
                return items, at + 1
            at = self._past_space(self._past(",", at))
        return items, self._closed(at, 1)[0]

    def _item(self, at: int) -> Value:
        end, depth = self._extent(at)
        try:
            if depth <= MAX_DEPTH:
                return _STRICT.decode(self._text[at:end]), end
            reason = TOO_DEEP
        except RepeatedMemberError:
            reason = "has two members of one name"
        except json.JSONDecodeError:
            reason = "is no JSON"
        except ValueError:
            # Python reads no whole number of more than 4,300 digits.
            reason = NO_NUMBER
        return UnreadableDefinition(self._identity(at), reason), end

    def _identity(self, at: int) -> JsonObject:
        members: JsonObject = {}
        # When it goes no further, what was found until there has to do.
        with contextlib.suppress(ValueError, NoMessageError):
            self._members(at, members, self._text_or_none)
        return {name: members[name] for name in IDENTIFYING & members.keys()}

    def _text_or_none(self, name: str, at: int) -> Value:
        if name in IDENTIFYING and self._text.startswith('"', at):
            return self._string(at)
        return None, self._extent(at)[0]

    def _value(self, at: int) -> Value:
        end, depth = self._extent(at)
        value = None
        if depth <= MAX_DEPTH:
            with contextlib.suppress(ValueError):
                value = _LENIENT.decode(self._text[at:end])
        return value, end

    def _string(self, at: int) -> tuple[str, int]:
        found = _A_STRING.match(self._text, at)
        if found is None:
            raise NoMessageError
        return str(json.loads(found[0])), found.end()

    def _extent(self, at: int) -> tuple[int, int]:
        """Return where the value at *at* ends, whatever is in it, and its levels (or one less)."""
        match self._text[at : at + 1]:
            case "{" | "[":
                return self._closed(at + 1, 1)
            case '"':
                found = _A_STRING.match(self._text, at)
            case _:
                found = _SCALAR.match(self._text, at)
        if found is None:
            raise NoMessageError
        return found.end(), 1

    def _closed(self, at: int, depth: int) -> tuple[int, int]:
        """Return where *depth* levels that are open at *at* are closed, and the most there are."""
        deepest = depth
        while True:
            run = _RUN.match(self._text, at)
            if run is None:
                raise NoMessageError
            kind = run.lastgroup or ""
            brackets = run[kind]
            if '"' in brackets:
                brackets = _A_STRING.sub("", brackets)
            at = run.end()
            if kind == "opens":
                depth += brackets.count("{") + brackets.count("[")
                deepest = max(deepest, depth)
                continue
            closing = brackets.count("}") + brackets.count("]")
            if closing >= depth:
                return self._nth_close(run.start(kind), depth), deepest
            depth -= closing

    def _nth_close(self, at: int, number: int) -> int:
        pattern = rf"(?:[}}\]]{_PLAIN}){{{number - 1}}}+[}}\]]"
        found = re.compile(pattern, re.DOTALL).match(self._text, at)
        if found is None:
            raise NoMessageError
        return found.end()

    def _past_space(self, at: int) -> int:
        found = _SPACE.match(self._text, at)
        return at if found is None else found.end()

    def _past(self, character: str, at: int) -> int:
        if not self._text.startswith(character, at):
            raise NoMessageError
        return at + 1
