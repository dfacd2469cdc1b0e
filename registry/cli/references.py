"""Values that a command line references (`env:`, `file:`, `-`), because others can read it."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from registry.cli.output import CONTROL
from registry.cli.running import fail

if TYPE_CHECKING:
    from registry.core.settings import Settings
    from registry.servers.files.forms import Question

FROM_ENVIRONMENT = "env:"
FROM_FILE = "file:"
MAX_BYTES = 64 * 1024


def resolve(reference: str, what: str, *, is_secret: bool = False) -> str:
    """Return the value of `env:NAME`, `file:PATH`, `-` (a line of input), or *reference* itself.

    A secret that is on the command line itself is accepted with a warning. The command ends if
    there is no value.
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
    if is_secret:
        sys.stderr.write(
            f"registry: warning: {what}: a secret on the command line can be read in lists of "
            "processes and in the shell's history; write env:NAME, file:PATH or - (asks, or reads "
            "standard input) instead\n"
        )
    return reference


def caller_token(settings: "Settings", reference: str | None) -> str:
    """Return the token of `--token`, or that of local mode's administrator."""
    if reference is not None:
        return resolve(reference, "--token", is_secret=True).strip()
    from registry.processes.local.home import LocalHome  # noqa: PLC0415 - heavy imports

    home = LocalHome(settings.registry_home)
    token = home.read_admin_token() if settings.registry_local else None
    if token is None:
        fail("say whose call it is with --token; `registry token create` makes one")
    return token


def _asked(what: str) -> str:
    if sys.stdin.isatty():
        import getpass  # noqa: PLC0415 - only for typed values

        value = getpass.getpass(f"{what}: ")
    else:
        value = sys.stdin.readline(MAX_BYTES).rstrip("\r\n")
    if not value:
        fail(f"{what}: nothing was given")
    return value


def _read(path: Path, what: str) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            value = file.read(MAX_BYTES).strip("\r\n")
    except OSError as exc:
        fail(f"{what}: {path} cannot be read ({exc.strerror})")
    except UnicodeDecodeError:
        fail(f"{what}: {path} is no text")
    if not value:
        fail(f"{what}: {path} is empty")
    return value


def pairs(texts: list[str] | None, what: str) -> dict[str, str]:
    """Return what `NAME=VALUE` options say, each value as `resolve` reads it."""
    from registry.core.logs import SECRET_KEYS  # noqa: PLC0415 - heavy imports

    found: dict[str, str] = {}
    for one in texts or []:
        name, separator, value = one.partition("=")
        if not separator or not name:
            fail(f"{what}: {name or one!r} has no value; write NAME=VALUE")
        is_secret = SECRET_KEYS.search(name) is not None
        found[name.strip()] = resolve(value, f"{what} {name}", is_secret=is_secret)
    return found


def answering(texts: list[str] | None) -> "Callable[[Question], str | None]":
    """Return a source of values that files leave open: `--set`, the environment, or a prompt.

    A value that was typed once counts for all files.
    """
    known = pairs(texts, "--set")

    def answer(question: "Question") -> str | None:
        if question.name in known:
            return known[question.name]
        value = None
        # A file from elsewhere may name any variable; ours open the database and all credentials.
        if question.kind == "env" and not _is_a_setting(question.name):
            value = os.environ.get(question.name)  # noqa: TID251 - a file names it, no setting
        if value is None and question.default is None and sys.stdin.isatty():
            label = f"{question.name} ({question.description})"[:200]
            shown = CONTROL.sub(" ", label if question.description else question.name)
            value = typer.prompt(shown, hide_input=question.is_secret, err=True)
        if value:
            known[question.name] = value
        return value or None

    return answer


def referenced(texts: list[str] | None) -> Callable[[str, str], str | None]:
    """Return what knows what `${env:NAME}` and `${file:PATH}` in our own files stand for."""
    known = pairs(texts, "--set")

    def resolve(kind: str, name: str) -> str | None:
        if kind == "file":
            return _read(Path(name).expanduser(), name)
        if name in known or _is_a_setting(name):
            return known.get(name)
        return os.environ.get(name) or None  # noqa: TID251 - a file names it, no setting

    return resolve


def _is_a_setting(name: str) -> bool:
    from registry.core.settings import Settings  # noqa: PLC0415 - heavy imports

    return name.lower() in Settings.model_fields
