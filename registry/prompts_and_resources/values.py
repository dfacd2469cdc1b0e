"""Values about prompts, resources and resource templates, shared by several modules."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from packages.models.states import FeatureKind


@dataclass(frozen=True, slots=True)
class Feature:
    """One prompt, resource or resource template as an upstream describes it.

    Attributes:
        key: Its name, uri or uriTemplate: unique among those of its kind of one server.
        definition: JSON text of the whole object, unknown members included.
    """

    kind: FeatureKind
    key: str
    definition: str


@dataclass(frozen=True, slots=True)
class FeatureProblem:
    """A rejected feature, and the reason.

    Attributes:
        name: `prompts`, or `prompts/<name>` for a single one.
    """

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class FeatureSnapshot:
    """The lists of one upstream at one time, in its order.

    Attributes:
        lists: By kind. A missing one could not be read: its stored features stay.
    """

    lists: Mapping[FeatureKind, tuple[Feature, ...]] = field(default_factory=dict)
    problems: tuple[FeatureProblem, ...] = ()


NOTHING_READ = FeatureSnapshot(MappingProxyType({}))

FeatureKey: TypeAlias = tuple[FeatureKind, str]


@dataclass(frozen=True, slots=True)
class StoredFeature:
    """What reconciliation needs of a stored feature."""

    definition: str
    position: int


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """A stored feature as the gateway reads it.

    Attributes:
        row_id: ObjectId of its document, 12 bytes.
    """

    row_id: bytes
    owner_id: str
    feature: Feature
