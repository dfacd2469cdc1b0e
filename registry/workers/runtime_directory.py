"""Where the workers of one registry meet: a private folder with a socket for each."""

import re
import secrets
import shutil
import string
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CHARACTERS = string.ascii_lowercase + string.digits
LENGTH = 8

WELL_FORMED = re.compile(rf"[a-z0-9]{{{LENGTH}}}")


def new_worker_id() -> str:
    """Return an id that no other worker has."""
    return "".join(secrets.choice(CHARACTERS) for _ in range(LENGTH))


def is_worker_id(text: str) -> bool:
    """Whether *text* can be an id; clients may have made it up."""
    return WELL_FORMED.fullmatch(text) is not None


SOCKET = ".sock"
COUNTS = ".counts"
DEPARTED = "departed.counts"

LONGEST_FOLDER = 80
"""Characters. The address of a unix socket takes 108 bytes, on some systems 104."""


@dataclass(frozen=True, slots=True)
class RuntimeDirectory:
    """One worker's view of the folder.

    Attributes:
        folder: Shared by all workers, readable by their user alone.
        own: The id of this worker.
        slot: Its number among its siblings, kept when it is started again.
    """

    folder: Path
    own: str
    slot: int

    def socket_of(self, worker: str) -> Path:
        """Return the address of a worker."""
        return self.folder / f"{worker}{SOCKET}"

    def counts_of(self, worker: str) -> Path:
        """Return where a worker keeps what it has counted whenever somebody asked."""
        return self.folder / f"{worker}{COUNTS}"

    def others(self) -> list[str]:
        """Return the ids of the other workers; some may have just died."""
        names = (path.name for path in self.folder.glob(f"*{SOCKET}"))
        ids = (name.removesuffix(SOCKET) for name in names)
        return sorted(worker for worker in ids if worker != self.own and is_worker_id(worker))

    def give_up(self) -> None:
        """Remove the folder, when the process that made it is gone."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def runtime_directory() -> Iterator[Path]:
    """Make the folder, and remove it at the end."""
    folder = Path(tempfile.mkdtemp(prefix="registry-"))
    if len(str(folder)) > LONGEST_FOLDER:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix="registry-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
