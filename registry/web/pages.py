"""Where a page of a list lies, as every list of the API says it."""

from typing import Any

from pydantic import BaseModel

from registry.core.paging import Page


class Pagination(BaseModel):
    """Where a page lies."""

    total: int
    page: int
    per_page: int
    total_pages: int


def pagination(page: Page[Any]) -> dict[str, int]:
    """Return the place of a page, as `Pagination` describes it."""
    return {
        "total": page.total,
        "page": page.request.page,
        "per_page": page.request.per_page,
        "total_pages": page.total_pages,
    }
