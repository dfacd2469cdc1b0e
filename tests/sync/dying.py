"""`registry sync run`, killed as by `kill -9` when it is about to send its nth write.

Run as `python -m tests.sync.dying NUMBER NAME`.
"""

import os
import signal
import sys

from pymongo import monitoring
from typing_extensions import override

from registry.cli import app

WRITES = frozenset(
    {"insert", "update", "delete", "findAndModify", "bulkWrite", "commitTransaction"}
)


class Dying(monitoring.CommandListener):
    """Counts what is written and ends the process."""

    def __init__(self, number: int) -> None:
        self._left = number

    @override
    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Die instead of sending the last one."""
        if event.command_name in WRITES:
            self._left -= 1
            if not self._left:
                os.kill(os.getpid(), signal.SIGKILL)

    @override
    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Go on."""

    @override
    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Go on."""


if __name__ == "__main__":
    monitoring.register(Dying(int(sys.argv[1])))
    app(["sync", "run", sys.argv[2]])
