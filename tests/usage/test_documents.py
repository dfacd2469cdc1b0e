"""What a record of a call says in the database."""

from dataclasses import replace
from datetime import timedelta

from bson import ObjectId
from bson.datetime_ms import DatetimeMS

from registry.usage.documents import DocumentMaker
from registry.usage.values import MAX_NAME_CHARACTERS, CallNote
from tests.conftest import ALICE
from tests.fakes.clock import NOON

MAKER = DocumentMaker(worker="host:1", retention=timedelta(days=30))

NOTE = CallNote(
    user=replace(ALICE, token_id="t-1"),
    server_id="d" * 24,
    slug="demo",
    method="tools/call",
    target="echo",
    is_modern=True,
    began_at=100.0,
    decided_at=100.0005,
    head_at=100.0025,
    ended_at=100.003,
    request_bytes=120,
    response_bytes=400,
    outcome="rpc_error",
    error_code=-32602,
    trace_id="4b" * 16,
)


def document(**changes: object) -> dict[str, object]:
    (made,) = MAKER.documents([NOTE._replace(**changes)], NOON, 160.0)  # type: ignore[arg-type]  # tests name its members
    return made


def test_a_document_says_all_that_was_noted() -> None:
    made = document()

    started_at = NOON - timedelta(seconds=60)
    assert made == {
        "_id": made["_id"],
        "started_at": DatetimeMS(started_at),
        "user_id": ObjectId("a" * 24),
        "username": "alice",
        "token_id": "t-1",
        "server_id": ObjectId("d" * 24),
        "server": "demo",
        "method": "tools/call",
        "tool": "echo",
        "era": "modern",
        "outcome": "rpc_error",
        "error_code": -32602,
        "duration_ms": 3.0,
        "admission_ms": 0.5,
        "upstream_ms": 2.0,
        "relay_ms": 0.5,
        "request_bytes": 120,
        "response_bytes": 400,
        "trace_id": "4b" * 16,
        "worker": "host:1",
        "expires_at": DatetimeMS(started_at + timedelta(days=30)),
    }


def test_ids_differ_and_tell_when_they_were_made() -> None:
    notes = [NOTE] * 1_000

    made = [*MAKER.documents(notes, NOON, 160.0), *MAKER.documents(notes, NOON, 160.0)]

    ids = [one["_id"] for one in made]
    assert len(set(ids)) == len(ids)
    assert {one.generation_time for one in ids} == {NOON}


def test_what_did_not_come_so_far_is_absent() -> None:
    made = document(
        user=ALICE,
        server_id=None,
        target=None,
        decided_at=0,
        head_at=0,
        error_code=0,
        trace_id=None,
    )

    assert not made.keys() & {
        "token_id", "server_id", "server", "tool", "error_code", "trace_id",
        "admission_ms", "upstream_ms", "relay_ms",
    }  # fmt: skip


def test_an_upstream_that_never_answered_has_had_all_the_rest_of_the_time() -> None:
    made = document(head_at=0)

    assert (made["upstream_ms"], made["relay_ms"]) == (2.5, 0.0)


def test_names_that_clients_chose_are_cut_and_harmless() -> None:
    assert document(target="a\x00b\nc\ud800")["tool"] == "a\ufffdb\ufffdc\ufffd"
    assert document(target="x" * 10_000)["tool"] == "x" * MAX_NAME_CHARACTERS
    assert (
        document(target="https://me:pw@host/a?token=abc")["tool"] == "https://***@host/a?token=***"
    )
