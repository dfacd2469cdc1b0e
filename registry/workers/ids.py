"""Ids of workers: short, unlike any before, harmless as file names."""

import re
import secrets
import string

CHARACTERS = string.ascii_lowercase + string.digits
LENGTH = 8

WELL_FORMED = re.compile(rf"[a-z0-9]{{{LENGTH}}}")


def new_worker_id() -> str:
    """Return an id that no other worker has."""
    return "".join(secrets.choice(CHARACTERS) for _ in range(LENGTH))


def is_worker_id(text: str) -> bool:
    """Whether *text* can be an id; clients may have made it up."""
    return WELL_FORMED.fullmatch(text) is not None
