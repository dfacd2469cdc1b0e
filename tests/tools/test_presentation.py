"""What clients get of a tool, and that it is what is known of it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.core.json import JsonObject
from registry.tools.exposure import reads_only
from registry.tools.metadata import MetadataSource, known
from registry.tools.presentation import Overrides, presented

READS: JsonObject = {"readOnlyHint": True}
CHANGES: JsonObject = {"readOnlyHint": False}
DESTROYS: JsonObject = {"destructiveHint": True}
SPARES: JsonObject = {"destructiveHint": False}

maybe = st.sampled_from([None, True, False])


def definition(name: str, annotations: JsonObject) -> str:
    return json.dumps({"name": name, "inputSchema": {}, "annotations": annotations})


def served(name: str, annotations: JsonObject, manual: dict[str, Any]) -> dict[str, Any]:
    """Return the annotations that clients get."""
    text = definition(name, annotations)
    shown = presented(text, Overrides(metadata=manual))
    return dict(json.loads(shown or text)["annotations"])


@pytest.mark.requirement("R-165")
@pytest.mark.requirement("R-166")
@pytest.mark.parametrize(
    ("name", "annotations", "manual", "counts", "hints"),
    [
        # A person's word against the upstream's.
        ("x", READS, {"destructive": True}, (False, True), CHANGES | DESTROYS),
        ("x", READS | SPARES, {"destructive": True}, (False, True), CHANGES | DESTROYS),
        ("x", READS | DESTROYS, {"destructive": True}, (False, True), CHANGES | DESTROYS),
        ("x", CHANGES, {"destructive": True}, (False, True), CHANGES | DESTROYS),
        ("x", {}, {"destructive": True}, (None, True), DESTROYS),
        ("x", DESTROYS, {"read_only": True}, (True, False), READS | SPARES),
        ("x", CHANGES | DESTROYS, {"read_only": True}, (True, False), READS | SPARES),
        ("x", SPARES, {"read_only": True}, (True, False), READS | SPARES),
        ("x", {}, {"read_only": True}, (True, None), READS),
        ("x", READS, {"destructive": False}, (True, False), READS | SPARES),
        ("x", READS | DESTROYS, {"read_only": False}, (False, True), CHANGES | DESTROYS),
        ("x", DESTROYS, {"destructive": False}, (None, False), SPARES),
        # A person's word against the name.
        ("get_x", {}, {"destructive": True}, (False, True), CHANGES | DESTROYS),
        ("delete_x", {}, {"read_only": True}, (True, False), READS | SPARES),
        ("delete_x", {}, {"destructive": False}, (None, False), SPARES),
        # A person's word against their own: the more careful one.
        ("x", {}, {"read_only": True, "destructive": True}, (False, True), CHANGES | DESTROYS),
        # The upstream's word against its own, and against the name: as it came.
        ("x", READS | DESTROYS, {}, (True, False), READS | DESTROYS),
        ("delete_x", READS, {}, (True, False), READS),
        ("get_x", DESTROYS, {}, (False, True), DESTROYS),
        ("get_x", CHANGES, {}, (False, None), CHANGES),
        ("delete_x", SPARES, {}, (None, False), SPARES),
        # What a name suggests is known and not served.
        ("get_x", {}, {}, (True, None), {}),
        ("delete_x", {}, {}, (None, True), {}),
    ],
)  # fmt: skip
def test_of_reading_only_and_destroying_one_counts_and_is_served(
    name: str,
    annotations: JsonObject,
    manual: dict[str, Any],
    counts: tuple[bool | None, bool | None],
    hints: JsonObject,
) -> None:
    values = known(name, annotations, manual).values

    assert (values.get("read_only"), values.get("destructive")) == counts
    assert served(name, annotations, manual) == hints


@pytest.mark.requirement("R-229")
@given(
    name=st.sampled_from(["x", "get_x", "delete_x"]),
    upstream=st.tuples(maybe, maybe),
    person=st.tuples(maybe, maybe),
)
def test_clients_go_by_what_is_known_whoever_said_what(
    name: str,
    upstream: tuple[bool | None, bool | None],
    person: tuple[bool | None, bool | None],
) -> None:
    said: JsonObject = dict(zip(("readOnlyHint", "destructiveHint"), upstream, strict=True))
    manual = dict(zip(("read_only", "destructive"), person, strict=True))

    counts = known(name, said, manual)
    hints = served(name, said, manual)

    reads, destroys = counts.values.get("read_only"), counts.values.get("destructive")
    # MCP: `destructiveHint` means nothing to whoever sees `readOnlyHint: true`.
    seen_to_read = hints.get("readOnlyHint") is True
    seen_to_destroy = not seen_to_read and hints.get("destructiveHint") is True
    assert not (reads and destroys)
    assert seen_to_read == (
        reads is True and counts.sources["read_only"] is not MetadataSource.INFERRED
    )
    assert seen_to_destroy == (
        destroys is True and counts.sources["destructive"] is not MetadataSource.INFERRED
    )
    assert person[1] is not True or seen_to_destroy


def test_a_tool_whose_upstream_calls_it_destructive_is_not_exposed_for_its_name() -> None:
    assert reads_only("get_rows", {})
    assert not reads_only("get_rows", DESTROYS)
    assert reads_only("get_rows", {**READS, **DESTROYS})


def test_what_no_person_touched_is_served_byte_by_byte() -> None:
    text = definition("x", READS | DESTROYS)

    assert presented(text, Overrides(metadata={"billing": {"unit": "call"}})) is None


@pytest.mark.parametrize(
    ("annotations", "offered", "manual", "hints"),
    [
        # What the newest definition takes back is advertised no longer.
        (READS, DESTROYS, {}, CHANGES | DESTROYS),
        (READS, {}, {}, CHANGES),
        (SPARES, {}, {}, DESTROYS),
        ({}, DESTROYS, {}, DESTROYS),
        ({"idempotentHint": True}, {}, {}, {"idempotentHint": False}),
        ({"openWorldHint": False}, {"openWorldHint": True}, {}, {"openWorldHint": True}),
        # What it promises beyond the approved one counts only once it is accepted.
        ({}, READS | SPARES, {}, {}),
        (CHANGES | DESTROYS, READS, {}, CHANGES | DESTROYS),
        (READS, READS, {}, READS),
        # A person's word stays.
        (READS, DESTROYS, {"read_only": True}, READS | SPARES),
        ({}, READS, {"destructive": True}, CHANGES | DESTROYS),
    ],
)
def test_no_safety_is_advertised_that_the_newest_definition_takes_back(
    annotations: JsonObject, offered: JsonObject, manual: dict[str, Any], hints: dict[str, bool]
) -> None:
    text = definition("x", annotations)

    shown = presented(text, Overrides(metadata=manual), definition("x", offered))

    assert json.loads(shown or text)["annotations"] == hints


@given(
    st.dictionaries(st.sampled_from(["readOnlyHint", "destructiveHint", "idempotentHint"]), maybe),
    st.dictionaries(st.sampled_from(["readOnlyHint", "destructiveHint", "idempotentHint"]), maybe),
)
def test_what_counts_of_two_definitions_is_never_safer_than_either(
    served_says: dict[str, Any], offered_says: dict[str, Any]
) -> None:
    counts = known("x", served_says, {}, offered_says).values

    for flag in ("read_only", "idempotent"):
        both = (
            known("x", served_says, {}).values.get(flag),
            known("x", offered_says, {}).values.get(flag),
        )
        assert counts.get(flag) is not True or both == (True, True)
    if known("x", offered_says, {}).values.get("destructive") is True:
        assert counts["destructive"] is True
