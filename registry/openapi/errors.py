"""Errors of descriptions."""


class DescriptionError(Exception):
    """A description cannot be read at all.

    Attributes:
        place: JSON Pointer of what is wrong; empty for the whole.
        reason: Completes a sentence that begins with "The description".
    """

    def __init__(self, place: str, reason: str) -> None:
        where = f" (at {place})" if place else ""
        super().__init__(f"The description {reason}{where}.")
        self.place = place
        self.reason = reason

    @property
    def message(self) -> str:
        """Return what can be told to callers."""
        return str(self)
