"""Private runtime directory of the workers: a unix socket and a metrics file for each."""

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
    """Whether *text* has the form of an id. It may come from a client."""
    return WELL_FORMED.fullmatch(text) is not None


SOCKET = ".sock"
COUNTS = ".counts"
STOPPED = "stopped.counts"

LONGEST_FOLDER = 80
"""Characters. The path of a unix socket may have 108 bytes, on some systems 104."""


@dataclass(frozen=True, slots=True)
class RuntimeDirectory:
    """One worker's view of the directory.

    Attributes:
        folder: Shared by all workers, readable only by their user.
        own: The id of this worker.
        slot: Its number among the workers, unchanged when it is restarted.
    """

    folder: Path
    own: str
    slot: int

    def socket_of(self, worker: str) -> Path:
        """Return the path of a worker's socket."""
        return self.folder / f"{worker}{SOCKET}"

    def counts_of(self, worker: str) -> Path:
        """Return the path of a worker's file of metrics."""
        return self.folder / f"{worker}{COUNTS}"

    def others(self) -> list[str]:
        """Return the ids of the other workers. Some may have just died."""
        names = (path.name for path in self.folder.glob(f"*{SOCKET}"))
        ids = (name.removesuffix(SOCKET) for name in names)
        return sorted(worker for worker in ids if worker != self.own and is_worker_id(worker))

    def remove(self) -> None:
        """Remove the directory after the process that made it has exited."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def runtime_directory() -> Iterator[Path]:
    """Create the directory, and remove it at the end."""
    folder = Path(tempfile.mkdtemp(prefix="registry-"))
    if len(str(folder)) > LONGEST_FOLDER:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix="registry-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
