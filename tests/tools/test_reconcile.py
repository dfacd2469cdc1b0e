"""What becomes of tools when an upstream is read again."""

import pytest

from registry.tools.exposure import AutoExpose, Origin, first_state, reads_only
from registry.tools.reconcile import Changes, Rules, ToolInsert, ToolUpdate, reconcile
from registry.tools.values import (
    ExposureState,
    RegistrationState,
    StoredTool,
    ToolDefinition,
    ToolSnapshot,
)

SELECTED, UNSELECTED, STALE = RegistrationState
ACTIVE, DRAFT = ExposureState.ACTIVE, ExposureState.DRAFT
PRIVATE = Rules(AutoExpose.ALL, Origin.LATER_ON_PRIVATE)
SHARED = Rules(AutoExpose.ALL, Origin.LATER_ON_SHARED)
REVIEWED = Rules(AutoExpose.ALL, Origin.LATER_ON_SHARED, accept=True)


def definition(name: str, text: str = "one") -> ToolDefinition:
    return ToolDefinition(name, None, text, "{}", "{}", None, None, discovery_hash=text)


def stored(
    name: str,
    registration: RegistrationState = SELECTED,
    exposure: ExposureState = ACTIVE,
    text: str = "one",
    pending: str | None = None,
) -> dict[str, StoredTool]:
    return {name: StoredTool(name, registration, exposure, text, pending)}


def test_an_unchanged_upstream_changes_nothing_but_what_was_seen() -> None:
    changes = reconcile(ToolSnapshot((definition("a"),)), stored("a"), SHARED)

    assert changes == Changes((), (), seen=("a",))


def test_a_tool_that_is_gone_becomes_stale_and_is_not_deleted() -> None:
    changes = reconcile(ToolSnapshot(()), stored("a"), SHARED)

    assert changes == Changes((), (ToolUpdate("a", STALE, ACTIVE),), seen=())


def test_a_stale_tool_that_stays_away_is_not_written_again() -> None:
    changes = reconcile(ToolSnapshot(()), stored("a", STALE), SHARED)

    assert changes == Changes((), (), seen=())


def test_a_new_tool_of_a_shared_server_waits_for_review() -> None:
    changes = reconcile(ToolSnapshot((definition("a"),)), {}, SHARED)

    assert changes.inserts == (ToolInsert(definition("a"), UNSELECTED, DRAFT, 0),)


def test_a_new_tool_of_a_private_server_follows_its_policy() -> None:
    changes = reconcile(ToolSnapshot((definition("a"),)), {}, PRIVATE)

    assert changes.inserts == (ToolInsert(definition("a"), SELECTED, ACTIVE, 0),)


def test_a_changed_definition_of_a_shared_server_is_held() -> None:
    newer = definition("a", "two")

    changes = reconcile(ToolSnapshot((newer,)), stored("a"), SHARED)

    assert changes.updates == (ToolUpdate("a", SELECTED, ACTIVE, hold=newer),)


def test_a_definition_that_is_held_already_is_not_written_again() -> None:
    newer = definition("a", "two")

    changes = reconcile(ToolSnapshot((newer,)), stored("a", pending="two"), SHARED)

    assert changes.updates == ()


def test_an_upstream_that_takes_its_change_back_clears_the_held_definition() -> None:
    changes = reconcile(ToolSnapshot((definition("a"),)), stored("a", pending="two"), SHARED)

    assert changes.updates == (ToolUpdate("a", SELECTED, ACTIVE),)


def test_a_changed_definition_of_a_private_server_is_served_at_once() -> None:
    newer = definition("a", "two")

    changes = reconcile(ToolSnapshot((newer,)), stored("a"), PRIVATE)

    assert changes.updates == (ToolUpdate("a", SELECTED, ACTIVE, serve=newer),)


def test_a_review_serves_held_and_waiting_tools() -> None:
    newer = definition("a", "two")
    rows = stored("a", pending="two") | stored("b", UNSELECTED, DRAFT)

    changes = reconcile(ToolSnapshot((newer, definition("b"))), rows, REVIEWED)

    assert changes.updates == (
        ToolUpdate("a", SELECTED, ACTIVE, serve=newer),
        ToolUpdate("b", SELECTED, ACTIVE),
    )


def test_a_tool_that_comes_back_unchanged_is_served_again() -> None:
    changes = reconcile(ToolSnapshot((definition("a"),)), stored("a", STALE), SHARED)

    assert changes.updates == (ToolUpdate("a", SELECTED, ACTIVE),)


def test_a_tool_that_comes_back_changed_on_a_shared_server_is_not_served() -> None:
    newer = definition("a", "two")

    changes = reconcile(ToolSnapshot((newer,)), stored("a", STALE), SHARED)

    assert changes.updates == (ToolUpdate("a", UNSELECTED, DRAFT, serve=newer),)


def test_a_disabled_tool_stays_disabled_whatever_the_upstream_does() -> None:
    newer = definition("a", "two")
    rows = stored("a", SELECTED, ExposureState.DISABLED)

    changes = reconcile(ToolSnapshot((newer,)), rows, PRIVATE)

    assert changes.updates == (ToolUpdate("a", SELECTED, ExposureState.DISABLED, serve=newer),)


@pytest.mark.parametrize(
    ("policy", "origin", "read_only", "expected"),
    [
        (AutoExpose.ALL, Origin.AT_REGISTRATION, False, (SELECTED, ACTIVE)),
        (AutoExpose.READ_ONLY, Origin.AT_REGISTRATION, True, (SELECTED, ACTIVE)),
        (AutoExpose.READ_ONLY, Origin.AT_REGISTRATION, False, (UNSELECTED, DRAFT)),
        (AutoExpose.NONE, Origin.AT_REGISTRATION, True, (UNSELECTED, DRAFT)),
        (AutoExpose.ALL, Origin.LATER_ON_SHARED, True, (UNSELECTED, DRAFT)),
        (AutoExpose.NONE, Origin.LATER_ON_PRIVATE, True, (UNSELECTED, DRAFT)),
    ],
)
def test_the_first_state_follows_policy_and_origin(
    policy: AutoExpose,
    origin: Origin,
    read_only: bool,  # noqa: FBT001 - a column of the table above
    expected: tuple[RegistrationState, ExposureState],
) -> None:
    assert first_state(policy, origin, read_only=read_only) == expected


def test_an_upstreams_hint_wins_over_the_name() -> None:
    assert not reads_only("get_rid_of_everything", {"readOnlyHint": False})
    assert reads_only("get_weather", None)
    assert not reads_only("delete_all", None)
