"""Values that a command line names instead of showing them: what it holds, others can read."""

import os
import sys
from pathlib import Path

from registry.cli.running import fail

FROM_ENVIRONMENT = "env:"
FROM_FILE = "file:"
MOST_BYTES = 64 * 1024


def given(reference: str, what: str) -> str:
    """Return the value that is meant: `env:NAME`, `file:PATH`, `-` for a line of input, or itself.

    The command ends where there is none.
    """
    if reference == "-":
        return _asked(what)
    if reference.startswith(FROM_ENVIRONMENT):
        name = reference.removeprefix(FROM_ENVIRONMENT)
        value = os.environ.get(name)  # noqa: TID251 - a value that the command line names, no setting
        if not value:
            fail(f"{what}: the environment has no {name}")
        return value
    if reference.startswith(FROM_FILE):
        return _read(Path(reference.removeprefix(FROM_FILE)).expanduser(), what)
    return reference


def _asked(what: str) -> str:
    if sys.stdin.isatty():
        import getpass  # noqa: PLC0415 - only where somebody types

        value = getpass.getpass(f"{what}: ")
    else:
        value = sys.stdin.readline(MOST_BYTES).rstrip("\r\n")
    if not value:
        fail(f"{what}: nothing was given")
    return value


def _read(path: Path, what: str) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            value = file.read(MOST_BYTES).strip("\r\n")
    except OSError as exc:
        fail(f"{what}: {path} cannot be read ({exc.strerror})")
    except UnicodeDecodeError:
        fail(f"{what}: {path} is no text")
    if not value:
        fail(f"{what}: {path} is empty")
    return value


def pairs(texts: list[str] | None, what: str) -> dict[str, str]:
    """Return what `NAME=VALUE` options say, each value as `given` reads it."""
    found: dict[str, str] = {}
    for one in texts or []:
        name, separator, value = one.partition("=")
        if not separator or not name:
            fail(f"{what}: {name or one!r} has no value; write NAME=VALUE")
        found[name.strip()] = given(value, f"{what} {name}")
    return found
