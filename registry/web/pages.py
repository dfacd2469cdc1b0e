"""Wire schema of offset pagination, shared by all lists of the API."""

from typing import Any

from pydantic import BaseModel

from registry.core.paging import Page


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
