"""The packages of the other application, installed once for each release that is tested."""

import fcntl
import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

RELEASES = Path(__file__).parent / "releases"
NAMES = tuple(sorted(path.name for path in RELEASES.iterdir()))
"""Releases of @librechat/data-schemas. Each folder pins all that is installed with it."""

INSTALL_SECONDS = 240
LOCK = "package-lock.json"


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
    reason = f"{name} is not installed; the tests with the other application need Node and npm"
    if Surroundings().demands_everything:
        pytest.fail(reason)
    pytest.skip(reason)


def installed(release: str, npm: str) -> Path:
    """Return the folder of a release, fetching its packages where they are not in place yet.

    Safe to call from several processes at once.
    """
    folder = RELEASES / release
    modules = folder / "node_modules"
    wanted = hashlib.sha256((folder / LOCK).read_bytes()).hexdigest()
    stamp = modules / ".installed"
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
