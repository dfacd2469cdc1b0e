"""Read JSON-RPC messages so that one object of a list costs no other. Pure.

The SDK refuses a whole message for one string, one number or one depth that its parser does not
take. So it gets each message without the objects of its lists, in JSON that it always takes; the
objects are read here, each by itself when not all can be read at once.
"""

import contextlib
import json
import re
from collections.abc import Callable
from typing import Any

from pydantic_core import SchemaValidator, core_schema

from registry.core.definitions import MAX_DEPTH, NO_NUMBER, TOO_DEEP, Listed, UnreadableDefinition
from registry.core.json import JsonObject, JsonValue, nesting

RESULT = "result"
LISTS = frozenset({"tools", "prompts", "resources", "resourceTemplates"})
"""Members of results whose objects are kept apart."""

TELLING = frozenset({"name", "uri", "uriTemplate"})
"""Members that tell which object it is."""

MAX_STEPS = 100_000
"""Members that are read one by one in one message. Far more than messages have, and a bound for
one that is made to keep us busy."""

NO_MESSAGE = b"null"
"""What the SDK gets for a body that is none; it refuses that, too."""

Value = tuple[Any, int]
"""A value, and where its text ends."""


class RepeatedMemberError(Exception):
    """An object has two members of one name, of which every parser may take another."""


class NoMessageError(Exception):
    """A text is no JSON-RPC message."""


class Kept:
    """Lists of objects, by the numbers that stand for them in what the SDK gets.

    Attributes:
        most: Objects of one list that are read; of more, one is kept to show that there are.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._lists: dict[int, list[Listed]] = {}
        self._next = 0

    def add(self, items: list[Listed]) -> int:
        """Keep *items*, and return their number."""
        number = self._next
        self._next += 1
        self._lists[number] = items
        return number

    def pop(self, stand_in: JsonValue) -> list[Listed] | None:
        """Return what *stand_in* stands for; None when it is no list."""
        match stand_in:
            case [int(number)]:
                return self._lists.pop(number)
            case _:
                return None


def without_lists(raw: bytes, kept: Kept) -> bytes:
    """Return the message *raw* without the objects of its lists, which go into *kept*."""
    # What is no UTF-8 becomes halves of pairs: characters that nothing stores.
    text = raw.decode(errors="surrogateescape")
    try:
        _READABLE.validate_json(raw)
        message = _STRICT.decode(text)
    except (ValueError, RepeatedMemberError):
        try:
            message = _Careful(text, kept.most).message()
        except (ValueError, NoMessageError):
            return NO_MESSAGE
    if not isinstance(message, dict):
        return NO_MESSAGE
    result = message.get(RESULT)
    if isinstance(result, dict):
        for name in LISTS & result.keys():
            if isinstance(result[name], list):
                result[name] = [kept.add(result[name])]
        message[RESULT] = _shallow(result)
    return json.dumps(_shallow(message), ensure_ascii=False).encode(errors="replace")


def _shallow(members: JsonObject) -> JsonObject:
    return {
        name: None if nesting(value, MAX_DEPTH) > MAX_DEPTH else value
        for name, value in members.items()
    }


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

    def __init__(self, text: str, most: int) -> None:
        self._text = text
        self._most = most
        self._steps_left = MAX_STEPS

    def message(self) -> JsonObject:
        """Return the message; what cannot be read of it is None.

        Raises:
            NoMessageError: It is none.
            ValueError: Likewise.
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
        while len(items) <= self._most:
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
        return UnreadableDefinition(self._telling(at), reason), end

    def _telling(self, at: int) -> JsonObject:
        members: JsonObject = {}
        # When it goes no further, what was found until there has to do.
        with contextlib.suppress(ValueError, NoMessageError):
            self._members(at, members, self._text_or_none)
        return {name: members[name] for name in TELLING & members.keys()}

    def _text_or_none(self, name: str, at: int) -> Value:
        if name in TELLING and self._text.startswith('"', at):
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
