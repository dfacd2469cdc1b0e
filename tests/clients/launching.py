"""Clients that are programs: started, given what to do, and read."""

import asyncio
import fcntl
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.clients.report import ENTERED, ROOT, SAMPLED, Report
from tests.npm.programs import HERE as NPM
from tests.npm.programs import INSTALL_SECONDS, MODULES

HERE = Path(__file__).parent
TYPESCRIPT = NPM / "clients"
"""Beside the packages, where Node looks for them."""

TYPESCRIPT_SERVERS = NPM / "servers" / "hard_cases.mjs"
EVERYTHING = MODULES / "@modelcontextprotocol/server-everything/dist/index.js"

INSPECTOR = MODULES / "@modelcontextprotocol/inspector/clients/launcher/build/index.js"
FASTMCP = HERE / "fastmcp"
PYTHON_SDK_V1 = HERE / "python_v1"
RUN_SECONDS = 90
START_SECONDS = 30


async def run_program(
    command: str, *arguments: str, environment: Mapping[str, str] | None = None
) -> Any:
    """Run a program and return the JSON that it prints as its last line.

    Raises:
        AssertionError: It failed, or took too long.
    """
    process = await asyncio.create_subprocess_exec(
        command,
        *arguments,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(RUN_SECONDS):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, f"{errors.decode()[-3000:]}{output.decode()[-500:]}"
    return json.loads(output.splitlines()[-1])


async def run_conversation(
    command: str, program: Path, url: str, token: str, mode: str, prefix: str
) -> Report:
    """Run a client with what it is to do and return what it saw."""
    options = {"url": url, "token": token, "mode": mode, "prefix": prefix}
    answers = {"entered": ENTERED, "sampled": SAMPLED, "root": ROOT}
    report: Report = await run_program(command, str(program), json.dumps(options | answers))
    return report


async def run_inspector(
    node: str, home: Path, url: str, token: str, era: str, prefix: str
) -> Report:
    """Run the inspector's command line once for each of a few methods."""

    async def ask(method: str, *arguments: str) -> Any:
        answer = await run_program(
            node,
            *(str(INSPECTOR), "--cli", "--quiet", "--format", "json", "--transport", "http"),
            *("--server-url", url, "--header", f"Authorization: Bearer {token}"),
            *("--protocol-era", era, "--stored-auth-only", "--method", method, *arguments),
            environment={"HOME": str(home)},
        )
        return answer["result"]

    tool = ("--tool-name", f"{prefix}test_echo", "--tool-arg", "text=hello")
    named = ("--prompt-name", f"{prefix}test_prompt_with_arguments")
    given = ("--prompt-args", "arg1=a", "arg2=b")
    listed, called, prompt, read = await asyncio.gather(
        ask("tools/list"),
        ask("tools/call", *tool),
        ask("prompts/get", *named, *given),
        ask("resources/read", "--uri", "test://static-text"),
    )
    return {
        "tools": sorted(item["name"].removeprefix(prefix) for item in listed["tools"]),
        "echo": called["content"][0]["text"],
        "prompt": prompt["messages"][0]["content"]["text"],
        "resource": read["contents"][0]["text"],
    }


def python_of(folder: Path) -> str:
    """Return the Python of a client's environment, which is made if it is not there yet.

    Safe to call from several processes at once.
    """
    pins = folder / "requirements.txt"
    environment = folder / ".venv"
    python = environment / "bin" / "python"
    wanted = f"{sys.version}\n{pins.read_text()}"
    stamp = environment / ".installed"
    with pins.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.is_file() or stamp.read_text() != wanted:
            _run(sys.executable, "-m", "venv", "--clear", str(environment))
            options = ("--quiet", "--no-deps", "--disable-pip-version-check")
            _run(str(python), "-m", "pip", "install", *options, "--requirement", str(pins))
            stamp.write_text(wanted)
    return str(python)


def _run(*command: str) -> None:
    run = subprocess.run(
        command, capture_output=True, check=False, text=True, timeout=INSTALL_SECONDS
    )
    assert run.returncode == 0, f"{run.stdout}{run.stderr}"


@asynccontextmanager
async def running_program(
    command: str, *arguments: str, environment: Mapping[str, str] | None = None
) -> AsyncIterator[str]:
    """Start a server and yield the first line that it prints; it is ended afterwards."""
    process = await asyncio.create_subprocess_exec(
        command,
        *arguments,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_SECONDS):
            line = await process.stdout.readline()
        async with asyncio.TaskGroup() as tasks:
            # Nobody reads what it prints later, but it must not have to wait for that.
            rest = tasks.create_task(process.stdout.read())
            yield line.decode()
            rest.cancel()
    finally:
        process.kill()
        await process.wait()
