"""The ledger of what the product promises: docs/requirements.md, read.

A statement is proved by the tests whose marker names its id, or is *later*, with the reason.
"""

import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "requirements.md"
LINE = re.compile(r"- \*\*([RE]-\d+)\*\* (.+?\.)(?: \*Later:\* (.+\.))?")


@dataclass(frozen=True, slots=True)
class Requirement:
    """One statement. *later* says why it does not hold yet, or not as a whole."""

    id: str
    text: str
    later: str | None


def lines() -> list[str]:
    """Return the lines that should be statements."""
    return [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:2] == "- "]


def requirements() -> list[Requirement]:
    """Return the statements; a line that is none is left out."""
    found = (LINE.fullmatch(line) for line in lines())
    return [Requirement(match[1], match[2], match[3]) for match in found if match]
