"""How much is measured."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        seconds: Of each measurement.
        rounds: Of each figure.
        is_long: Whether what takes long is measured in full.
        fastmcp: The interpreter of an environment with FastMCP; None if there is none.
    """

    seconds: float
    rounds: int
    is_long: bool
    fastmcp: str | None = None
