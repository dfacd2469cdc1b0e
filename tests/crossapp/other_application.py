"""The other application of the shared database, in a process of its own."""

import asyncio
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bson import json_util

SCRIPT = Path(__file__).with_name("other_application.mjs")
ANSWER_SECONDS = 30
STOP_SECONDS = 30
JSON = json_util.RELAXED_JSON_OPTIONS.with_options(tz_aware=True)

Doc = dict[str, Any]


class OtherApplicationError(Exception):
    """What it threw.

    Attributes:
        code: A server's error code, when it has one.
    """

    def __init__(self, name: str, code: object, message: str) -> None:
        super().__init__(f"{name} ({code}): {message}")
        self.code = code


@dataclass(slots=True)
class OtherApplication:
    """Calls functions of the published packages. Dates, ids and numbers keep their types.

    Attributes:
        release: Which release of @librechat/data-schemas it runs.
        log: Where its loggers write.
    """

    release: str
    log: Path
    _process: subprocess.Popen[str]

    async def call(self, function: str, *arguments: object) -> Any:
        """Call a function by its path (see the script for the roots) and return what it returned.

        Raises:
            OtherApplicationError: It threw.
        """
        request = {"call": function, "arguments": list(arguments)}
        line = json_util.dumps(request, json_options=JSON)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answered = await asyncio.to_thread(self._exchange, line)
        except TimeoutError:
            # The thread waits for a line; the end of the process is the end of that.
            self._process.kill()
            raise
        if not answered:
            raise OtherApplicationError("ProcessEnded", None, self.log.read_text()[-2000:])
        answer: Doc = json_util.loads(answered, json_options=JSON)
        if "error" in answer:
            raise OtherApplicationError(**answer["error"])
        return answer["result"]

    async def open(self, uri: str) -> None:
        """Connect to a database, leaving the one before."""
        await self.call("connection.open", uri)

    def stop(self) -> None:
        """Let it end; it is killed when it does not."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _exchange(self, line: str) -> str:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{line}\n")
        stdin.flush()
        return stdout.readline()


def start_other_application(
    node: str, packages: Path, home: Path, secrets: dict[str, str]
) -> OtherApplication:
    """Start it with the packages of a release; *home* gets its logs."""
    log = home / "stderr.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [node, str(SCRIPT), str(packages)],
            # It reads a .env file and writes logs where it runs.
            cwd=home,
            env=secrets,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    return OtherApplication(packages.name, log, process)
