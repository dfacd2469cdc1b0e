"""From what is stored to what an upstream lists."""

from packages.models.states import FeatureKind
from registry.prompts_and_resources.reconcile import (
    NO_CHANGES,
    FeatureChanges,
    reconcile,
)
from registry.prompts_and_resources.values import Feature, FeatureSnapshot, PlacedFeature

PROMPT, RESOURCE = FeatureKind.PROMPT, FeatureKind.RESOURCE


def prompt(key: str, text: str = "{}") -> Feature:
    return Feature(PROMPT, key, text)


def test_the_same_lists_change_nothing() -> None:
    stored = [PlacedFeature(prompt("a"), 0), PlacedFeature(prompt("b"), 1)]

    assert reconcile(FeatureSnapshot({PROMPT: (prompt("a"), prompt("b"))}), stored) == NO_CHANGES


def test_what_came_changed_moved_and_went_is_told_apart() -> None:
    stored = [
        PlacedFeature(prompt("gone"), 0),
        PlacedFeature(prompt("moved"), 1),
        PlacedFeature(prompt("changed"), 2),
    ]
    listed = (prompt("moved"), prompt("new"), prompt("changed", '{"x":1}'))

    assert reconcile(FeatureSnapshot({PROMPT: listed}), stored) == FeatureChanges(
        added=(PlacedFeature(listed[1], 1),),
        changed=(PlacedFeature(listed[2], 2),),
        moved=(PlacedFeature(listed[0], 0),),
        removed=((PROMPT, "gone"),),
    )


def test_a_list_that_was_not_read_stays_and_an_empty_one_empties() -> None:
    stored = [PlacedFeature(prompt("a"), 0), PlacedFeature(Feature(RESOURCE, "x:b", "{}"), 0)]

    assert reconcile(FeatureSnapshot({RESOURCE: ()}), stored) == FeatureChanges(
        removed=((RESOURCE, "x:b"),)
    )
