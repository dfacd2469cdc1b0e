"""What a batch of records says in the database, and what is read back from it."""

import json
import zlib
from datetime import datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId, decode, encode
from bson.codec_options import CodecOptions
from bson.datetime_ms import DatetimeMS

from packages.database.client import Doc
from registry.usage.batches import BatchPacker, BatchUnreadableError, records_of
from registry.usage.values import MAX_NAME_CHARACTERS, UsageFilter, UsageRecord
from tests.fakes.clock import NOON
from tests.usage.conftest import FACTS, batch_of, call

PACKER = BatchPacker(worker="host:1", retention=timedelta(days=30))
AWARE = CodecOptions[dict[str, Any]](tz_aware=True)
MINUTE_AGO = NOON - timedelta(seconds=60)
COURSE: dict[str, Any] = {
    "began_at": 100.0,
    "decided_at": 100.0005,
    "head_at": 100.0025,
    "ended_at": 100.003,
}
REFUSED: dict[str, Any] = {**COURSE, "decided_at": 0, "head_at": 0}


def document(*changes: dict[str, Any]) -> Doc:
    """Return the document of calls of a minute ago."""
    calls = [call(**{**COURSE, **some}) for some in changes]
    return PACKER.document(batch_of(*calls), NOON, 160.0)


def read(*changes: dict[str, Any]) -> list[UsageRecord]:
    """Return the records of such calls as the database gives them back."""
    stored = decode(encode(document(*changes)), AWARE)
    return list(records_of(stored, UsageFilter()))


def test_what_calls_have_in_common_is_said_once() -> None:
    made = document({}, {"began_at": 100.2, "target": "sum", "tool": None}, {"began_at": 100.1})

    rows = json.loads(zlib.decompress(made.pop("rows")))
    assert made == {
        "_id": made["_id"],
        "packed": 1,
        "worker": "host:1",
        "first_at": DatetimeMS(MINUTE_AGO),
        "last_at": DatetimeMS(MINUTE_AGO + timedelta(milliseconds=200)),
        "expires_at": DatetimeMS(MINUTE_AGO + timedelta(days=30, milliseconds=200)),
        "calls": [
            {
                "user_id": ObjectId("a" * 24),
                "username": "alice",
                "method": "tools/call",
                "era": "legacy",
                "outcome": "ok",
                "count": count,
                "server_id": ObjectId("d" * 24),
                "server": "demo",
                "tool": tool,
            }
            for tool, count in (("echo", 2), ("sum", 1))
        ],
    }
    assert [row[0] for row in rows] == [0, 1, 0]
    assert rows[0] == [0, 0, 120, 400, None, 500, 2000, 500]


def test_a_record_says_all_that_was_noted() -> None:
    (record,) = read(
        {
            "token_id": "t-1",
            "is_modern": True,
            "outcome": "rpc_error",
            "error_code": -32602,
            "trace_id": "4b" * 16,
        }
    )

    assert record == UsageRecord(
        id=record.id,
        started_at=MINUTE_AGO,
        user_id="a" * 24,
        username="alice",
        token_id="t-1",
        server_id="d" * 24,
        server="demo",
        method="tools/call",
        tool="echo",
        era="modern",
        outcome="rpc_error",
        error_code=-32602,
        duration_ms=3.0,
        admission_ms=0.5,
        upstream_ms=2.0,
        relay_ms=0.5,
        request_bytes=120,
        response_bytes=400,
        trace_id="4b" * 16,
        worker="host:1",
    )


def test_each_record_has_an_id_and_a_time_of_its_own() -> None:
    made = read(*({"began_at": 100 + number / 1000} for number in range(500)))

    assert len({record.id for record in made}) == 500
    assert [record.started_at for record in made] == [
        MINUTE_AGO + timedelta(milliseconds=number) for number in range(500)
    ]


def test_what_did_not_come_so_far_is_absent() -> None:
    absent = {"server_id": None, "target": None}

    (record,) = read({**REFUSED, **absent})

    assert record.duration_ms == 3.0
    assert {
        record.token_id, record.server_id, record.server, record.tool, record.error_code,
        record.trace_id, record.admission_ms, record.upstream_ms, record.relay_ms,
    } == {None}  # fmt: skip
    assert not document({**REFUSED, **absent})["calls"][0].keys() & {
        "token_id", "server_id", "server", "tool", "error_code",
    }  # fmt: skip


def test_an_upstream_that_never_answered_has_had_all_the_rest_of_the_time() -> None:
    (record,) = read({"head_at": 0})

    assert (record.upstream_ms, record.relay_ms) == (2.5, 0.0)


def test_names_that_clients_chose_are_cut_and_harmless() -> None:
    def tool(target: str) -> str | None:
        return read({"target": target})[0].tool

    assert tool("a\x00b\nc\ud800") == "a\ufffdb\ufffdc\ufffd"
    assert tool("x" * 10_000) == "x" * MAX_NAME_CHARACTERS
    assert tool("https://me:pw@host/a?token=abc") == "https://***@host/a?token=***"


def test_traces_can_be_looked_for() -> None:
    made = document({"trace_id": "1" * 32}, {}, {"trace_id": "1" * 32})

    assert made["trace_ids"] == ["1" * 32]


@pytest.mark.parametrize(
    "damage",
    [
        {"rows": b""},
        {"rows": zlib.compress(b"[")},
        {"rows": zlib.compress(b"[[0]]")},
        {"rows": zlib.compress(b"[0]")},
        {"rows": zlib.compress(b'[[0,"x",0,0,null,1]]')},
        {"calls": [{}]},
        {"calls": None},
        {"first_at": None},
    ],
)
def test_a_damaged_batch_is_one_that_cannot_be_read(damage: Doc) -> None:
    stored = {**decode(encode(document({})), AWARE), **damage}

    with pytest.raises(BatchUnreadableError):
        list(records_of(stored, UsageFilter()))


def test_a_clock_that_is_not_whole_milliseconds_moves_no_record_out_of_its_batch() -> None:
    odd = NOON + timedelta(microseconds=700)
    batch = batch_of(*(call(**{**COURSE, "began_at": 100 + number * 0.0007}) for number in (0, 9)))
    stored = decode(encode(PACKER.document(batch, odd, 160.0)), AWARE)

    times: list[datetime] = [one.started_at for one in records_of(stored, UsageFilter())]

    assert (stored["first_at"], stored["last_at"]) == (min(times), max(times))
    assert FACTS.user_id == "a" * 24
