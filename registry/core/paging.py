"""One page of a longer list."""

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which page is wanted. *page* counts from 1."""

    page: int
    per_page: int

    @property
    def offset(self) -> int:
        """Return how many items come before this page."""
        return (self.page - 1) * self.per_page


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """The items of one page, and how many there are on all of them."""

    items: tuple[T, ...]
    total: int
    request: PageRequest

    @property
    def total_pages(self) -> int:
        """Return the number of pages; 0 when there is nothing."""
        return -(-self.total // self.request.per_page)
