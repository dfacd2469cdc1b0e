"""Errors of local mode. Each message is one line, fit to print without a traceback.

LocalError
├── LocalHomeError       the home folder is damaged or not ours
├── KeyWaitsError        a new key waits for the next start already
├── HomeInUseError       another registry works in it
├── MissingExtraError    the embedded database is not installed
└── ChildFailedError     a child process does not start, or keeps crashing
"""

from pathlib import Path

LOCAL_DATABASE_STOPPED = (
    "the local registry's database does not answer: start it with `registry serve --local` and "
    "leave that running"
)
"""Message of commands that need the database of a local registry that is not running."""


class LocalError(Exception):
    """Local mode cannot start or continue."""


class LocalHomeError(LocalError):
    """The home folder cannot be used."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path


class KeyWaitsError(LocalError):
    """A new CREDS_KEY was created and the registry was not restarted since."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path}: a new key already exists; restart the registry to use it")
        self.path = path


class HomeInUseError(LocalError):
    """Another process holds the home folder.

    Attributes:
        pid: Its process id, or None when it has not written it yet.
    """

    def __init__(self, path: Path, pid: int | None) -> None:
        holder = "" if pid is None else f" (pid {pid})"
        super().__init__(f"{path}: another registry{holder} is running in this folder")
        self.path = path
        self.pid = pid


class MissingExtraError(LocalError):
    """The package of the embedded database is not installed."""

    def __init__(self, package: str) -> None:
        super().__init__(
            f"Local mode needs the package {package}, which is not installed here; the container "
            "image leaves it out. Serve with a MongoDB of your own (MONGO_URI)."
        )


class ChildFailedError(LocalError):
    """A child process did not start in time, or crashed too often."""

    def __init__(self, name: str, problem: str, log_file: Path) -> None:
        super().__init__(f"The {name.replace('_', ' ')} {problem}; its log is {log_file}")
        self.log_file = log_file
