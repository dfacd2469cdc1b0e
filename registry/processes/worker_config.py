"""Configuration of one worker, passed on its command line. Holds no secret."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import orjson

from registry.workers.runtime_directory import RuntimeDirectory


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """One worker's configuration.

    Attributes:
        worker: Its id.
        slot: Its number among the workers.
        folder: The runtime directory of all workers.
        listener: File descriptor of the socket it listens on.
        channel: File descriptor of its end of the control channel.
        port: The port it listens on; the setting may be 0.
        workers: The number of workers.
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
    def directory(self) -> RuntimeDirectory:
        """Return this worker's view of the runtime directory."""
        return RuntimeDirectory(Path(self.folder), self.worker, self.slot)

    def text(self) -> str:
        """Serialize to one command line argument."""
        return orjson.dumps(asdict(self)).decode()

    @classmethod
    def read(cls, text: str) -> Self:
        """Parse such an argument."""
        return cls(**orjson.loads(text))
