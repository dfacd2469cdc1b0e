"""What counts of all that is said of a tool's effects."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.core.json import JsonObject
from registry.tools.metadata import FLAGS, HINTS, MetadataSource, facets_of, known

said = st.dictionaries(
    st.sampled_from([*FLAGS, "other"]), st.sampled_from([True, False, None, "x"])
)
hints: st.SearchStrategy[JsonObject] = st.dictionaries(
    st.sampled_from([*HINTS.values(), "openWorldHint"]), st.sampled_from([True, False, None, 1])
)
names = st.sampled_from(["get_rows", "list_rows", "delete_row", "drop_table", "rows", "Get_rows"])


@pytest.mark.requirement("R-166")
@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("get_rows", {"read_only": True}),
        ("list_rows", {"read_only": True}),
        ("delete_row", {"destructive": True}),
        ("drop_table", {"destructive": True}),
        ("getRows", {}),
        ("target", {}),
    ],
)
def test_names_say_something_that_is_marked_as_inferred(name: str, flags: dict[str, bool]) -> None:
    counts = known(name, None, {})

    assert counts.values == flags
    assert set(counts.sources.values()) <= {MetadataSource.INFERRED}


@pytest.mark.requirement("R-166")
def test_a_person_wins_over_the_name() -> None:
    counts = known("get_rows", None, {"read_only": False})

    assert (counts.values, counts.sources) == (
        {"read_only": False},
        {"read_only": MetadataSource.MANUAL},
    )


@pytest.mark.requirement("R-165")
@given(name=names, annotations=hints, manual=said)
def test_nothing_that_an_upstream_says_changes_what_a_person_said(
    name: str, annotations: JsonObject, manual: dict[str, object]
) -> None:
    counts = known(name, annotations, manual)
    alone = known("", None, manual)

    assert alone.values.items() <= counts.values.items()
    assert {counts.sources[flag] for flag in alone.values} <= {MetadataSource.MANUAL}
    assert set(facets_of(counts)) == {
        f"{flag}:{str(value).lower()}" for flag, value in counts.values.items()
    }


@given(name=names, annotations=hints, manual=said)
def test_who_says_what_counts_is_told(
    name: str, annotations: JsonObject, manual: dict[str, object]
) -> None:
    counts = known(name, annotations, manual)

    # Of the other two one at most is true; see test_presentation.
    for flag in ("idempotent", "sensitive", "human_approval_required"):
        own, hint = manual.get(flag), annotations.get(HINTS.get(flag, ""))
        if isinstance(own, bool):
            assert (counts.values[flag], counts.sources[flag]) == (own, MetadataSource.MANUAL)
        elif isinstance(hint, bool):
            assert (counts.values[flag], counts.sources[flag]) == (hint, MetadataSource.UPSTREAM)
        else:
            assert flag not in counts.values
