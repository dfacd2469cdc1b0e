"""Wire schema of offset pagination, shared by all lists of the API."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field

from registry.core.paging import Page

T = TypeVar("T")

MAX_PAGE = 1_000_000
"""Beyond it an offset would not fit the database's 32-bit skip with the largest page size."""

PageNumber = Annotated[int, Field(ge=1, le=MAX_PAGE)]
PerPage = Annotated[int, Field(ge=1, le=100)]
LargePerPage = Annotated[int, Field(ge=1, le=200)]
"""Of lists with small items."""


class Pagination(BaseModel):
    """Position of a page in a list."""

    total: int
    page: int
    per_page: int
    total_pages: int


def pagination(page: Page[Any]) -> dict[str, int]:
    """Return the `Pagination` of a page."""
    return {
        "total": page.total,
        "page": page.request.page,
        "per_page": page.request.per_page,
        "total_pages": page.total_pages,
    }


def present_page(
    name: str, page: Page[T], present: Callable[[T], Mapping[str, object]]
) -> dict[str, object]:
    """Return the items of a page under *name*, each as *present* returns it, and its position."""
    return {name: [present(item) for item in page.items], "pagination": pagination(page)}
