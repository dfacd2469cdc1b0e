"""What is told of the differences between two versions."""

from typing import Any

import pytest

from registry.servers.transport import Secret, TransportConfig
from registry.servers.versions.differences import ChangeKind, MemberDifference, differences

KEY = ("apiKey", "key")
SEALED: dict[str, Any] = {"apiKey": {"source": "admin", "key": "***"}}


def keyed(value: Any) -> TransportConfig:
    return TransportConfig(SEALED, {KEY: Secret(value, is_encrypted=True)})


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({"url": "a"}, {"url": "a"}, []),
        ({"url": "a"}, {"url": "b"}, [MemberDifference("url", ChangeKind.CHANGED, "a", "b")]),
        ({}, {"timeout": 5}, [MemberDifference("timeout", ChangeKind.ADDED, None, 5)]),
        (
            {"headers": {"X-A": "1", "X-B": "2"}},
            {"headers": {"X-A": "1"}},
            [MemberDifference("headers.X-B", ChangeKind.REMOVED, "2", None)],
        ),
        (
            {"customUserVars": {"A": {"title": "x"}}},
            {"customUserVars": {"A": {"title": "y"}}},
            [
                MemberDifference(
                    "customUserVars.A", ChangeKind.CHANGED, {"title": "x"}, {"title": "y"}
                )
            ],
        ),
        (
            {"headers": {}},
            {"headers": {"X": "1"}},
            [
                MemberDifference("headers", ChangeKind.REMOVED, {}, None),
                MemberDifference("headers.X", ChangeKind.ADDED, None, "1"),
            ],
        ),
    ],
)
def test_members_are_told_one_by_one(
    before: dict[str, Any], after: dict[str, Any], told: list[MemberDifference]
) -> None:
    assert differences(TransportConfig(before), TransportConfig(after)) == told


@pytest.mark.parametrize(
    ("before", "after", "kinds"),
    [
        ("one", "one", []),
        ("one", "two", [ChangeKind.CHANGED]),
        ("one", None, [ChangeKind.UNKNOWN]),
        (None, None, [ChangeKind.UNKNOWN]),
    ],
)
def test_of_a_secret_only_that_it_differs_is_told(
    before: str | None, after: str | None, kinds: list[ChangeKind]
) -> None:
    told = differences(keyed(before), keyed(after))

    assert told == [MemberDifference("apiKey.key", kind, "***", "***") for kind in kinds]


def test_a_text_that_looks_like_a_mask_is_not_taken_for_a_secret() -> None:
    typed = TransportConfig(SEALED)

    assert [item.kind for item in differences(typed, keyed("one"))] == [ChangeKind.CHANGED]
