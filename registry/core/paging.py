"""Offset pagination: a page of a longer list."""

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A requested page. *page* counts from 1."""

    page: int
    per_page: int

    @property
    def offset(self) -> int:
        """Return how many items come before this page."""
        return (self.page - 1) * self.per_page


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """The items of one page, and the total number of items."""

    items: tuple[T, ...]
    total: int
    request: PageRequest

    @property
    def total_pages(self) -> int:
        """Return the number of pages; 0 for an empty list."""
        return -(-self.total // self.request.per_page)
