"""What a worker is told when it is started. Holds no secret: it is on its command line."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import orjson

from registry.workers.runtime_directory import RuntimeDirectory


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """One worker's orders.

    Attributes:
        worker: Its id.
        slot: Its number among its siblings.
        folder: Where they meet.
        listener: File descriptor of the socket it listens on.
        channel: File descriptor of its end of the tie.
        port: That it listens on, which the setting may leave open.
        workers: How many there are.
        local_home: The home folder, in local mode.
    """

    worker: str
    slot: int
    folder: str
    listener: int
    channel: int
    port: int
    workers: int
    local_home: str | None

    @property
    def place(self) -> RuntimeDirectory:
        """Return where it meets the others."""
        return RuntimeDirectory(Path(self.folder), self.worker, self.slot)

    def text(self) -> str:
        """Return the orders as one argument of a command line."""
        return orjson.dumps(asdict(self)).decode()

    @classmethod
    def read(cls, text: str) -> Self:
        """Return the orders of such an argument."""
        return cls(**orjson.loads(text))
