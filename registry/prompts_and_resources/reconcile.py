"""Reconciliation: from what an upstream lists and what is stored to changes. Pure.

These are not governed one by one as tools are: what the upstream lists is what is stored.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from packages.models.states import FeatureKind
from registry.prompts_and_resources.values import (
    FeatureKey,
    FeatureSnapshot,
    PlacedFeature,
)


@dataclass(frozen=True, slots=True)
class FeatureChanges:
    """The changes to write; empty if the upstream lists the same as before.

    Attributes:
        moved: Features whose place alone changed; not reported.
    """

    added: tuple[PlacedFeature, ...] = ()
    changed: tuple[PlacedFeature, ...] = ()
    moved: tuple[PlacedFeature, ...] = ()
    removed: tuple[FeatureKey, ...] = ()

    def names(self, kind: FeatureKind) -> dict[str, list[str]]:
        """Return the keys of one kind by the change, without empty lists."""
        changes = {
            "added": [item.feature.key for item in self.added if item.feature.kind is kind],
            "changed": [item.feature.key for item in self.changed if item.feature.kind is kind],
            "removed": [key for its_kind, key in self.removed if its_kind is kind],
        }
        return {what: keys for what, keys in changes.items() if keys}


NO_CHANGES = FeatureChanges()


def reconcile(snapshot: FeatureSnapshot, stored: Iterable[PlacedFeature]) -> FeatureChanges:
    """Return the changes that bring *stored* up to *snapshot*; lists not read stay as they are."""
    rows = {(row.feature.kind, row.feature.key): row for row in stored}
    added: list[PlacedFeature] = []
    changed: list[PlacedFeature] = []
    moved: list[PlacedFeature] = []
    offered: set[FeatureKey] = set()
    for kind, features in snapshot.lists.items():
        for position, feature in enumerate(features):
            offered.add((kind, feature.key))
            row = rows.get((kind, feature.key))
            placed = PlacedFeature(feature, position)
            if row is None:
                added.append(placed)
            elif row.feature != feature:
                changed.append(placed)
            elif row.position != position:
                moved.append(placed)
    removed = [key for key in rows if key[0] in snapshot.lists and key not in offered]
    return FeatureChanges(tuple(added), tuple(changed), tuple(moved), tuple(removed))
