"""What a reading changed, in the words of its report."""

from registry.tools.differences import Compatibility
from registry.tools.reconcile import Changes, reconcile
from registry.tools.reported_changes import MAX_REPORTED, ChangeKind, ReportedChange, reported
from registry.tools.values import ToolSnapshot
from tests.tools.test_reconcile import (
    DRAFT,
    PRIVATE,
    SHARED,
    STALE,
    UNSELECTED,
    definition,
    stored,
)

BREAKING, SAFE = Compatibility.BREAKING, Compatibility.SAFE


def test_what_is_gone_breaks_calls_and_what_came_does_not() -> None:
    rows = {**stored("gone"), **stored("kept"), **stored("unserved", UNSELECTED, DRAFT)}
    snapshot = ToolSnapshot((definition("kept"), definition("new")))

    assert reported(reconcile(snapshot, rows, PRIVATE)) == (
        ReportedChange("gone", ChangeKind.REMOVED, BREAKING, ("tool removed",)),
        ReportedChange("new", ChangeKind.ADDED, SAFE, ("tool added",)),
        ReportedChange(
            "unserved", ChangeKind.REMOVED, SAFE, ("tool removed, which was not served",)
        ),
    )


def test_a_held_change_says_why_and_an_accepted_one_too() -> None:
    snapshot = ToolSnapshot((definition("a", "two"), definition("b")))

    held = reported(reconcile(snapshot, stored("a"), SHARED))
    accepted = reported(reconcile(snapshot, stored("a"), PRIVATE))

    assert [change.kind for change in held] == [ChangeKind.ADDED, ChangeKind.HELD]
    assert held[1].reasons == ("description changed",)
    assert held[0].reasons == ("tool added, and waits for review",)
    assert accepted[1].kind is ChangeKind.CHANGED


def test_what_is_back_is_told() -> None:
    (change,) = reported(reconcile(ToolSnapshot((definition("a"),)), stored("a", STALE), PRIVATE))

    assert (change.kind, change.compatibility) == (ChangeKind.RETURNED, SAFE)


def test_a_report_is_bounded_and_nothing_is_nothing() -> None:
    many = ToolSnapshot(tuple(definition(f"t{index}") for index in range(MAX_REPORTED + 1)))

    assert len(reported(reconcile(many, {}, PRIVATE))) == MAX_REPORTED
    assert reported(Changes((), ())) == ()
