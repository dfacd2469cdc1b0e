"""Values about prompts, resources and resource templates, shared by several modules."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from packages.models.states import FeatureKind
from registry.core.definitions import Rejection


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
class FeatureSnapshot:
    """The lists of one upstream at one time, in its order.

    Attributes:
        lists: By kind. A missing one could not be read: its stored features stay.
    """

    lists: Mapping[FeatureKind, tuple[Feature, ...]] = field(default_factory=dict)
    problems: tuple[Rejection, ...] = ()


NOTHING_READ = FeatureSnapshot(MappingProxyType({}))

FeatureKey: TypeAlias = tuple[FeatureKind, str]


@dataclass(frozen=True, slots=True)
class PlacedFeature:
    """A feature and its place in the upstream's list, to write or as stored."""

    feature: Feature
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
