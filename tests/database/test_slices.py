"""Many documents in several commands."""

import pytest

from packages.database.slices import DOCUMENTS_AT_ONCE, slices


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(0, []), (1, [1]), (3, [3]), (4, [3, 1]), (6, [3, 3])],
)
def test_each_item_is_in_one_slice(count: int, sizes: list[int]) -> None:
    parts = list(slices(range(count), 3))

    assert [len(part) for part in parts] == sizes
    assert [item for part in parts for item in part] == list(range(count))


def test_what_fits_one_command_is_one_slice() -> None:
    assert len(list(slices(range(DOCUMENTS_AT_ONCE)))) == 1
