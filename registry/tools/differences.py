"""Compare two definitions of a tool, and weigh each change. Pure.

A tool's definition is read by models: every text in it can steer them, and every argument can leak
data. So an addition to either is risky, whatever the schema's own logic says.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from itertools import islice

from pydantic import JsonValue

from registry.core.definitions import LISTED_VIA
from registry.core.json import JsonObject, members
from registry.openapi.binding import OPERATION
from registry.tools.metadata import SAFE_HINTS

MAX_CHANGES = 200
SHOWN_CHARACTERS = 400
"""Maximum length of a value in a change; the versions have them whole."""


class Compatibility(StrEnum):
    """What a change does to the calls that worked before, whatever it says to models."""

    BREAKING = "breaking"
    """Some of them may fail, do another thing, or be answered in another form."""

    SAFE = "safe"


class Weight(IntEnum):
    """How much a change matters; the greatest weight of several counts."""

    COSMETIC = 0
    WIDENING = 1
    NARROWING = 2
    RISKY = 3


@dataclass(frozen=True, slots=True)
class DefinitionChange:
    """One change.

    Attributes:
        path: JSON Pointer into the definition.
        summary: What it is, in a few words.
        before: JSON text of the value, cut; None where there was none.
        after: Likewise.
        breaks: Whether calls that worked may not work as before.
    """

    weight: Weight
    path: str
    summary: str
    before: str | None
    after: str | None
    breaks: bool = False

    @property
    def compatibility(self) -> Compatibility:
        """Return the same in a word."""
        return Compatibility.BREAKING if self.breaks else Compatibility.SAFE


@dataclass(frozen=True, slots=True)
class DefinitionDifference:
    """All changes, the greatest weight first."""

    changes: tuple[DefinitionChange, ...]

    @property
    def weight(self) -> Weight:
        """Return the greatest weight."""
        return max((change.weight for change in self.changes), default=Weight.COSMETIC)

    @property
    def compatibility(self) -> Compatibility:
        """Return `breaking` if one of them is."""
        is_breaking = any(change.breaks for change in self.changes)
        return Compatibility.BREAKING if is_breaking else Compatibility.SAFE


UNREAD = frozenset({"icons"})
"""Members that no model reads and that do not affect calls."""

LOOSER: Mapping[str, Callable[[float, float], bool]] = {
    name: (lambda before, after: after > before)
    for name in ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
} | {
    name: (lambda before, after: after < before)
    for name in ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
}
"""Bounds, and whether the second value allows more."""

DESCRIPTIVE = frozenset(
    {
        *("title", "description", "$comment", "default", "examples", "example", "deprecated"),
        *("readOnly", "writeOnly", "$schema", "$id", "$anchor"),
    }
)
"""Keywords of schemas that allow no value and refuse none."""

OF_ANSWERS = frozenset({"accepts", "idempotency_key"})
"""Members of a binding that change nothing of what a call means."""

SETS = frozenset({"enum", "type", "anyOf", "oneOf"})
SAID: Mapping[Weight, str] = {Weight.NARROWING: "narrowed", Weight.WIDENING: "widened"}
"""How a change of a set of allowed values is called."""

CONDITIONS = frozenset({"patternProperties", "dependentSchemas"})
"""Maps of schemas whose members hold for values that were allowed without them."""

MAPS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
SCHEMAS = frozenset(
    {"items", "additionalItems", "contains", "not", "if", "then", "else", "propertyNames"}
)
_ABSENT = object()


def difference(before: JsonObject, after: JsonObject) -> DefinitionDifference:
    """Return the changes from one definition of a tool to the next."""
    found = list(islice(_changes(before, after), MAX_CHANGES))
    if _turns_truth_into_number(before, after):
        summary = "true or false became a number, or the reverse"
        found.append(DefinitionChange(Weight.RISKY, "", summary, None, None, breaks=True))
    found.sort(key=lambda change: (-change.weight, change.path))
    return DefinitionDifference(tuple(found))


def _changes(before: JsonObject, after: JsonObject) -> Iterator[DefinitionChange]:
    for name in ("description", "title"):
        if before.get(name) != after.get(name):
            yield _change(Weight.RISKY, f"/{name}", f"{name} changed", before, after, name)
    yield from _annotations(members(before.get("annotations")), members(after.get("annotations")))
    yield from _schema(before.get("inputSchema"), after.get("inputSchema"), "/inputSchema")
    if before.get("outputSchema") != after.get("outputSchema"):
        summary = "output changed"
        breaks = _breaks_answers(before.get("outputSchema"), after.get("outputSchema"))
        yield _change(
            Weight.RISKY, "/outputSchema", summary, before, after, "outputSchema", breaks=breaks
        )
    yield from _operation(before, after)
    before, after = _without_operation(before), _without_operation(after)
    known = {"name", "description", "title", "annotations", "inputSchema", "outputSchema"}
    for name in sorted((before.keys() | after.keys()) - known):
        if before.get(name, _ABSENT) != after.get(name, _ABSENT):
            summary = f"{name} changed"
            # Some clients give models all of it, and `_meta` controls what users are shown.
            is_unread = name in UNREAD or _only_came_another_way(name, before, after)
            weight = Weight.COSMETIC if is_unread else Weight.RISKY
            yield _change(weight, _join("", name), summary, before, after, name)


def _without_operation(definition: JsonObject) -> JsonObject:
    """Return a definition without what the gateway makes requests of."""
    meta = members(definition.get("_meta"))
    if not isinstance(meta.get(OPERATION), dict):
        return definition
    kept = {name: value for name, value in meta.items() if name != OPERATION}
    shown = {name: value for name, value in definition.items() if name != "_meta"}
    return {**shown, "_meta": kept} if kept else shown


def _operation(before: JsonObject, after: JsonObject) -> Iterator[DefinitionChange]:
    """Compare how two definitions become requests, beyond what their schemas say of it."""
    was = members(members(before.get("_meta")).get(OPERATION))
    now = members(members(after.get("_meta")).get(OPERATION))
    place = _join("/_meta", OPERATION)
    for name in sorted(was.keys() | now.keys()):
        first, second = was.get(name, _ABSENT), now.get(name, _ABSENT)
        if first == second:
            continue
        if name == "parameters":
            yield from _parameters(before, after, was.get(name), now.get(name), place)
        elif name == "body" and _has_other_arguments_alone(before, after, first, second):
            continue
        else:
            summary = f"{name} of the request changed"
            breaks = name not in OF_ANSWERS
            yield _change(Weight.RISKY, _join(place, name), summary, was, now, name, breaks=breaks)


def _parameters(
    before: JsonObject, after: JsonObject, was: JsonValue, now: JsonValue, place: str
) -> Iterator[DefinitionChange]:
    first, second = _by_argument(was), _by_argument(now)
    if first is None or second is None:
        yield DefinitionChange(
            Weight.RISKY,
            place,
            "parameters of the request changed",
            _shown(was),
            _shown(now),
            breaks=True,
        )
        return
    for argument in sorted(first.keys() | second.keys()):
        one, other = first.get(argument), second.get(argument)
        if one == other or _is_told_by_schemas(before, after, argument, one, other):
            continue
        yield DefinitionChange(
            Weight.RISKY,
            _join(_join(place, "parameters"), argument),
            f"argument {argument} is sent another way",
            None if one is None else _shown(one),
            None if other is None else _shown(other),
        )


def _by_argument(parameters: JsonValue) -> dict[str, JsonObject] | None:
    """Return parameters by their arguments; None if they are no list of such, each of its own."""
    listed = [] if parameters is None else parameters
    if not isinstance(listed, list):
        return None
    found = {str(one.get("argument")): one for one in listed if isinstance(one, dict)}
    return found if len(found) == len(listed) else None


def _is_told_by_schemas(
    before: JsonObject,
    after: JsonObject,
    argument: str,
    one: JsonObject | None,
    other: JsonObject | None,
) -> bool:
    """Whether the input schemas say the same: an argument came, went, or is required or not."""
    first, second = members(before.get("inputSchema")), members(after.get("inputSchema"))
    if one is None or other is None:
        return (argument in members(first.get("properties"))) is (one is not None) and (
            argument in members(second.get("properties"))
        ) is (other is not None)
    is_moved = {**one, "required": None} != {**other, "required": None}
    return not is_moved and (
        (argument in _names(first.get("required")))
        is not (argument in _names(second.get("required")))
    )


def _has_other_arguments_alone(
    before: JsonObject, after: JsonObject, first: object, second: object
) -> bool:
    """Whether two bodies differ in arguments that came or went, which the schemas show."""
    if not isinstance(first, dict) or not isinstance(second, dict):
        return False
    if {**first, "properties": None} != {**second, "properties": None}:
        return False
    was, now = members(first.get("properties")), members(second.get("properties"))
    known = [members(members(one.get("inputSchema")).get("properties")) for one in (before, after)]
    return all(
        (name in was) is (name in known[0]) and (name in now) is (name in known[1])
        if name not in was or name not in now
        else was[name] == now[name]
        for name in was.keys() | now.keys()
    )


def _only_came_another_way(name: str, before: JsonObject, after: JsonObject) -> bool:
    """Whether `_meta` differs only in the gateways that listed the tool."""
    if name != "_meta":
        return False
    was, now = members(before.get(name)), members(after.get(name))
    return {**was, LISTED_VIA: None} == {**now, LISTED_VIA: None}


def _annotations(before: JsonObject, after: JsonObject) -> Iterator[DefinitionChange]:
    for name in sorted(before.keys() | after.keys()):
        if before.get(name, _ABSENT) == after.get(name, _ABSENT):
            continue
        weight, summary = Weight.RISKY, f"annotation {name} changed"
        if name in SAFE_HINTS and _hint(before, name) == _hint(after, name):
            weight, summary = Weight.COSMETIC, f"annotation {name} says what it means by default"
        elif name in SAFE_HINTS:
            promises_more = after.get(name) is SAFE_HINTS[name]
            weight = Weight.NARROWING if promises_more else Weight.RISKY
            summary = f"annotation {name} {'promises more' if promises_more else 'weakened'}"
        elif name == "title":
            weight, summary = Weight.RISKY, "title changed"
        yield _change(weight, _join("/annotations", name), summary, before, after, name)


def _hint(annotations: JsonObject, name: str) -> JsonValue:
    """Return an annotation, or its default."""
    value = annotations.get(name)
    return not SAFE_HINTS[name] if value is None else value


def _schema(before: JsonValue, after: JsonValue, path: str) -> Iterator[DefinitionChange]:
    if before == after:
        return
    if not isinstance(before, dict) or not isinstance(after, dict):
        yield _either(before, after, path)
        return
    yield from _required(before, after, path)
    for name in sorted((before.keys() | after.keys()) - {"required"}):
        first, second = before.get(name, _ABSENT), after.get(name, _ABSENT)
        if first == second:
            continue
        place = _join(path, name)
        if name in MAPS and before.get(name, {}) == after.get(name, {}):
            summary = f"{name} left out or empty"
            yield _change(Weight.COSMETIC, place, summary, before, after, name)
        elif name in MAPS and _are_maps(before.get(name, {}), after.get(name, {})):
            yield from _map(members(before.get(name)), members(after.get(name)), place, name)
        elif name in SCHEMAS and first is not _ABSENT and second is not _ABSENT:
            yield from _schema(before[name], after[name], place)
        else:
            weight, summary = _keyword(name, before.get(name), after.get(name))
            breaks = _narrows(weight) and not _is_descriptive(name)
            yield _change(weight, place, summary, before, after, name, breaks=breaks)


def _narrows(weight: Weight) -> bool:
    """Whether what was allowed may not be any more."""
    return weight in {Weight.NARROWING, Weight.RISKY}


def _is_descriptive(keyword: str) -> bool:
    return keyword in DESCRIPTIVE or keyword.startswith("x-")


def _breaks_answers(before: JsonValue, after: JsonValue) -> bool:
    """Whether answers may lack what was promised: all but members that are told besides."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        # Without a schema nothing was promised.
        return before not in (None, True) and before != after
    for name in before.keys() | after.keys():
        first, second = before.get(name), after.get(name)
        if first == second or _is_descriptive(name):
            continue
        if name in MAPS and _are_maps(before.get(name, {}), after.get(name, {})):
            was, now = members(first), members(second)
            if any(key not in now or _breaks_answers(was[key], now[key]) for key in was):
                return True
        elif name == "required":
            if not _names(first) <= _names(second):
                return True
        elif name in SCHEMAS and name in before:
            if _breaks_answers(first, second):
                return True
        else:
            return True
    return False


def _turns_truth_into_number(before: JsonValue, after: JsonValue) -> bool:
    """Whether there are two values that are equal in Python and different in JSON."""
    pairs = [(before, after)]
    while pairs:
        first, second = pairs.pop()
        if isinstance(first, dict) and isinstance(second, dict):
            pairs += [(first[name], second[name]) for name in first.keys() & second.keys()]
        elif isinstance(first, list) and isinstance(second, list):
            pairs += zip(first, second, strict=False)
        elif isinstance(first, bool) is not isinstance(second, bool) and first == second:
            return True
    return False


def _either(before: JsonValue, after: JsonValue, path: str) -> DefinitionChange:
    """Return the change if one of two schemas is `true`, `false`, or not a schema."""
    if before is True or after is False:
        weight, summary = Weight.NARROWING, "allows less"
    elif before is False or after is True:
        weight, summary = Weight.WIDENING, "allows more"
    else:
        weight, summary = Weight.RISKY, "changed"
    return DefinitionChange(
        weight, path, summary, _shown(before), _shown(after), breaks=_narrows(weight)
    )


def _required(before: JsonObject, after: JsonObject, path: str) -> Iterator[DefinitionChange]:
    first, second = _names(before.get("required")), _names(after.get("required"))
    place = _join(path, "required")
    for name in sorted(second - first):
        is_new = name not in members(before.get("properties"))
        summary = f"required argument {name} added" if is_new else f"argument {name} made required"
        yield DefinitionChange(Weight.RISKY, place, summary, None, _shown(name), breaks=True)
    for name in sorted(first - second):
        summary = f"argument {name} made optional"
        yield DefinitionChange(Weight.WIDENING, place, summary, _shown(name), None)
    if first == second and before.get("required", _ABSENT) != after.get("required", _ABSENT):
        is_the_same = (_values(before.get("required")) or ()) == (
            _values(after.get("required")) or ()
        )
        weight = Weight.COSMETIC if is_the_same else Weight.RISKY
        breaks = not is_the_same
        yield _change(weight, place, "required changed", before, after, "required", breaks=breaks)


def _are_maps(*values: JsonValue) -> bool:
    return all(isinstance(value, dict) for value in values)


def _map(
    before: JsonObject, after: JsonObject, path: str, kind: str
) -> Iterator[DefinitionChange]:
    what = "argument" if kind == "properties" else "schema"
    for name in sorted(before.keys() | after.keys()):
        place = _join(path, name)
        if name not in before:
            summary = f"{what} {name} added"
            breaks = kind in CONDITIONS
            shown = _shown(after[name])
            yield DefinitionChange(Weight.RISKY, place, summary, None, shown, breaks=breaks)
        elif name not in after:
            summary = f"{what} {name} removed"
            breaks = kind == "properties"
            shown = _shown(before[name])
            yield DefinitionChange(Weight.NARROWING, place, summary, shown, None, breaks=breaks)
        else:
            yield from _schema(before[name], after[name], place)


def _keyword(name: str, before: JsonValue, after: JsonValue) -> tuple[Weight, str]:
    summary = f"{name} changed"
    if name in LOOSER:
        return _bound(name, before, after), summary
    weigh = WEIGHED.get(name)
    weight = Weight.RISKY if weigh is None else weigh(before, after)
    if name in SETS and weight in SAID:
        summary = f"{name} {SAID[weight]}"
    return weight, summary


def _constraint(before: JsonValue, after: JsonValue) -> Weight:
    """Weigh a keyword whose presence allows less, and whose changed value is risky."""
    if before is not None and after is not None:
        return Weight.RISKY
    return Weight.NARROWING if before is None else Weight.WIDENING


def _bound(name: str, before: JsonValue, after: JsonValue) -> Weight:
    if not _is_number(before) or not _is_number(after):
        return Weight.NARROWING if before is None else Weight.WIDENING
    is_looser = LOOSER[name](float(str(before)), float(str(after)))
    return Weight.WIDENING if is_looser else Weight.NARROWING


def _more_or_less(before: frozenset[str] | None, after: frozenset[str] | None) -> Weight:
    """Weigh two sets of allowed values; None allows everything."""
    if before is None or after is None:
        return Weight.NARROWING if before is None else Weight.WIDENING
    if before <= after:
        return Weight.WIDENING
    return Weight.NARROWING if after <= before else Weight.RISKY


def _types(value: JsonValue) -> frozenset[str] | None:
    if value is None:
        return None
    names = value if isinstance(value, list) else [value]
    found = frozenset(str(name) for name in names)
    # Every integer is a number.
    return found | {"integer"} if "number" in found else found


def _values(value: JsonValue) -> frozenset[str] | None:
    return frozenset(map(_text, value)) if isinstance(value, list) else None


def _names(value: JsonValue) -> frozenset[str]:
    names = value if isinstance(value, list) else []
    return frozenset(name for name in names if isinstance(name, str))


def _or_true(value: JsonValue) -> JsonValue:
    return True if value is None else value


def _is_number(value: JsonValue) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


WEIGHED: Mapping[str, Callable[[JsonValue, JsonValue], Weight]] = {
    "type": lambda before, after: _more_or_less(_types(before), _types(after)),
    "additionalProperties": lambda before, after: (
        _either(_or_true(before), _or_true(after), "").weight
    ),
    "uniqueItems": lambda _, after: Weight.NARROWING if after is True else Weight.WIDENING,
    **dict.fromkeys(
        ("enum", "anyOf", "oneOf"),
        lambda before, after: _more_or_less(_values(before), _values(after)),
    ),
    **dict.fromkeys(("pattern", "format", "const", "multipleOf"), _constraint),
    **dict.fromkeys(("$schema", "$id", "$anchor"), lambda _, __: Weight.COSMETIC),
}
"""Keywords whose values can be weighed. All others are risky: models read them, too."""


def _change(
    weight: Weight,
    path: str,
    summary: str,
    before: JsonObject,
    after: JsonObject,
    name: str,
    *,
    breaks: bool = False,
) -> DefinitionChange:
    return DefinitionChange(
        weight,
        path,
        summary,
        _shown(before[name]) if name in before else None,
        _shown(after[name]) if name in after else None,
        breaks,
    )


def _shown(value: JsonValue) -> str:
    text = _text(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def _text(value: JsonValue) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _join(path: str, name: str) -> str:
    return f"{path}/{name.replace('~', '~0').replace('/', '~1')}"
