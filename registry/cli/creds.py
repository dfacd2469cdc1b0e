"""Commands of key rotation for stored credentials."""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from registry.auth.identity import OPERATOR
from registry.cli.output import AsJson, show_json
from registry.cli.running import fail, progress, read_settings, run

if TYPE_CHECKING:
    from packages.database.client import Database
    from packages.database.encryption import Cipher
    from registry.operations.rotation import Survey
    from registry.processes.local.home import LocalHome

creds = typer.Typer(help="The key of stored credentials.", no_args_is_help=True)


@creds.command("check")
def creds_check(*, as_json: AsJson = False) -> None:
    """Say under which keys the stored credentials are.

    Ends with 1 when one needs another key than CREDS_KEY, or cannot be read.
    """

    async def work() -> None:
        from registry.operations.rotation import survey  # noqa: PLC0415 - heavy imports

        async with _stored() as (database, cipher):
            found = await survey(database, cipher)
        _print_outcome(found, [], as_json=as_json)
        if not found.is_clean:
            raise typer.Exit(1)

    run(work)


@creds.command("rotate")
def creds_rotate(
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what would be rewritten; change nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Encrypt values under keys of CREDS_KEYS_READABLE again, with CREDS_KEY.

    May run while the registry runs, and again after it was interrupted. Values that no key
    decrypts are left unchanged and named; the exit code is then 1.
    """

    async def work() -> None:
        from registry.operations.rotation import rotate, survey  # noqa: PLC0415 - heavy imports
        from registry.wiring.audit import recorded_rotation  # noqa: PLC0415 - heavy imports

        async with _stored() as (database, cipher):
            found = await survey(database, cipher)
            if dry_run:
                would = [
                    f"{name}: {count} would be rewritten" for name, count in found.older.items()
                ]
                _print_outcome(found, would, as_json=as_json)
                if found.unreadable or found.ambiguous:
                    raise typer.Exit(1)
                return
            async with recorded_rotation(database, cipher, OPERATOR, found.key_id, found.older):
                with progress(found.total, "Looking at") as advanced:
                    done = await rotate(database, cipher, seen=lambda: advanced(1))
        lines = [f"{name}: {count} rewritten" for name, count in done.rewritten.items()]
        lines += [f"{left.ref}: left as it is: {left.reason}" for left in done.refused]
        refused = [{"ref": str(left.ref), "reason": left.reason} for left in done.refused]
        facts = {"rewritten": dict(done.rewritten), "refused": refused}
        _print_outcome(done.after, lines, as_json=as_json, facts=facts)
        if _new_key_waits():
            typer.echo(
                "A new key waits for a restart of the registry; run this again then.", err=True
            )
        if not done.is_complete:
            raise typer.Exit(1)

    run(work)


@creds.command("new-key")
def creds_new_key() -> None:
    """Make a new CREDS_KEY for the local registry in REGISTRY_HOME.

    The next start takes it up and goes on reading with the former one.
    """

    async def work() -> None:
        home = _local_home()
        home.add_next_key()
        typer.echo(
            "A new key waits. Restart the registry to take it up, "
            "then run `registry creds rotate` and `registry creds remove-old-keys`."
        )

    run(work)


@creds.command("remove-old-keys")
def creds_remove_old_keys() -> None:
    """Drop the former keys of the local registry in REGISTRY_HOME, once nothing needs them."""

    async def work() -> None:
        from registry.operations.rotation import survey  # noqa: PLC0415 - heavy imports

        home = _local_home()
        former = home.read_keys().creds_keys_readable
        async with _stored() as (database, cipher):
            found = await survey(database, cipher)
        if found.needs_older_key:
            _print_survey(found)
            fail("the former keys are still needed; run `registry creds rotate` first")
        home.forget_readable_keys(former)
        typer.echo(f"Former keys dropped: {len(former)}.")

    run(work)


def _print_outcome(
    found: "Survey",
    lines: Iterable[str],
    *,
    as_json: bool,
    facts: Mapping[str, object] | None = None,
) -> None:
    """Print what was found after *lines*, or both as JSON with *facts* for the lines."""
    if as_json:
        show_json({**(facts or {}), **_survey_facts(found)})
        return
    for line in lines:
        typer.echo(line)
    _print_survey(found)


def _survey_facts(found: "Survey") -> dict[str, object]:
    return {
        "key_id": found.key_id,
        "stored": found.total,
        "by_key": {name: dict(keys) for name, keys in found.by_key.items()},
        "under_an_older_key": found.older.total(),
        "unreadable": [{"ref": str(one.ref), "reason": one.reason} for one in found.unreadable],
        "ambiguous": [{"ref": str(one.ref), "reason": one.reason} for one in found.ambiguous],
    }


def _print_survey(found: "Survey") -> None:
    for collection, keys in found.by_key.items():
        for key_id, count in keys.items():
            which = "the current key" if key_id == found.key_id else "an older key"
            typer.echo(f"{collection}: {count} under {which} ({key_id})")
    for value in found.ambiguous:
        typer.echo(f"{value.ref}: left as it is: {value.reason}")
    for value in found.unreadable:
        typer.echo(f"{value.ref}: unreadable: {value.reason}")
    counts = {
        "unreadable": len(found.unreadable),
        "ambiguous": len(found.ambiguous),
        "under an older key": found.older.total(),
    }
    bad = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    typer.echo(f"{found.total} stored; " + (bad or "all under the current key"), err=True)
    if found.unreadable:
        typer.echo("Is the key they were written with in CREDS_KEYS_READABLE?", err=True)


@asynccontextmanager
async def _stored() -> "AsyncIterator[tuple[Database, Cipher]]":
    from registry.wiring.database import connected  # noqa: PLC0415 - heavy imports
    from registry.wiring.keys import build_cipher  # noqa: PLC0415

    settings = read_settings()
    async with connected(settings) as database:
        yield database, build_cipher(settings)


def _new_key_waits() -> bool:
    settings = read_settings()
    if not settings.registry_local:
        return False
    from registry.processes.local.home import LocalHome  # noqa: PLC0415 - heavy imports

    return LocalHome(settings.registry_home).has_next_key()


def _local_home() -> "LocalHome":
    from registry.processes.local.home import LocalHome, Location  # noqa: PLC0415 - heavy imports

    location = Location()
    if location.mongo_uri is not None:
        fail("MONGO_URI is set: change CREDS_KEY and CREDS_KEYS_READABLE where they are set")
    return LocalHome(location.registry_home)
