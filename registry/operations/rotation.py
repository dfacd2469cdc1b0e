"""Key rotation: reports the keys of stored credentials, and encrypts them with the current key.

It may run while the database is in use. Each value is replaced separately and only if the old one
is still stored, so no concurrent write is lost. After an interruption it can be run again: values
under the current key are left alone.

A value belongs to the one key that decrypts it. CBC and CTR have no integrity, so by a small
chance a second key decrypts it to another text (CBC: below one in a million; CTR, which is only
checked for UTF-8: often if the text is short). The right text is then unknown, and a wrong guess
would destroy the credential, so such a value is left unchanged and reported, to be entered again.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import assert_never

from packages.database.client import Database
from packages.database.encryption import Cipher, DecryptionError, FieldRef, StoredForm, stored_form
from packages.database.errors import translated
from registry.ciphertexts import Replacement, StoredSecret, replace_secrets, stored_secrets

BATCH = 100
"""Values written with one command, which bounds time and memory."""

PASSES = 10
"""A pass finds values that were stored with an older key during the one before. If every pass
finds some, another process keeps writing with that key, and more passes do not help."""

AMBIGUOUS = "several keys decrypt it, each to another text; enter it again"
REFUSED = "the database refused the new value"


@dataclass(frozen=True, slots=True)
class Untouched:
    """A value that was left unchanged, and why."""

    ref: FieldRef
    reason: str


@dataclass(slots=True)
class Survey:
    """The keys that the stored values need.

    Attributes:
        key_id: Fingerprint of the current key.
        by_key: How many values there are by collection and fingerprint of their key.
        unreadable: Those that no key opens.
        ambiguous: Those that several keys open.
    """

    key_id: str
    by_key: dict[str, Counter[str]] = field(default_factory=dict)
    unreadable: list[Untouched] = field(default_factory=list)
    ambiguous: list[Untouched] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Return the number of values."""
        readable = sum(keys.total() for keys in self.by_key.values())
        return readable + len(self.unreadable) + len(self.ambiguous)

    @property
    def older(self) -> Counter[str]:
        """Return the number of values that need an older key, by collection."""
        return Counter(
            {
                collection: keys.total() - keys[self.key_id]
                for collection, keys in self.by_key.items()
                if keys.total() > keys[self.key_id]
            }
        )

    @property
    def needs_older_key(self) -> bool:
        """Whether some value needs, or may need, an older key."""
        return bool(self.older or self.ambiguous)

    @property
    def is_clean(self) -> bool:
        """Whether the current key decrypts all values."""
        return not (self.needs_older_key or self.unreadable)


@dataclass(frozen=True, slots=True)
class Rotation:
    """Result of a rotation.

    Attributes:
        rewritten: How many values were encrypted again, by collection.
        refused: Values whose replacement the database refused.
        passes: How many times all values were read.
        after: Result of the last pass.
    """

    rewritten: Counter[str]
    refused: tuple[Untouched, ...]
    passes: int
    after: Survey

    @property
    def is_complete(self) -> bool:
        """Whether the current key now decrypts all values."""
        return self.after.is_clean


async def survey(database: Database, cipher: Cipher) -> Survey:
    """Return which keys the stored values need. Changes nothing.

    Raises:
        DatabaseUnavailable: They cannot be read.
    """
    found = Survey(cipher.key_id)
    async with _secrets(database) as secrets:
        async for secret in secrets:
            _classify(found, cipher, secret)
    return found


async def rotate(
    database: Database, cipher: Cipher, *, seen: Callable[[], None] = lambda: None
) -> Rotation:
    """Encrypt all values under older keys again, with the current key.

    Args:
        database: Where.
        cipher: Has the older keys among its further ones.
        seen: Called for each value of the first pass.

    Raises:
        DatabaseUnavailable: The database became unreachable; run it again to continue.
    """
    rewritten: Counter[str] = Counter()
    number = 0
    while True:
        number += 1
        run = _Pass(database, cipher, seen if number == 1 else lambda: None)
        await run.run()
        rewritten += run.rewritten
        left = run.found.older.total() - len(run.refused)
        if left == 0 or number == PASSES:
            refused = tuple(Untouched(ref, REFUSED) for ref in run.refused)
            return Rotation(rewritten, refused, number, run.found)


class _Pass:
    """One scan of all values, which replaces those under an older key."""

    def __init__(self, database: Database, cipher: Cipher, seen: Callable[[], None]) -> None:
        self.found = Survey(cipher.key_id)
        self.rewritten: Counter[str] = Counter()
        self.refused: list[FieldRef] = []
        self._database = database
        self._cipher = cipher
        self._seen = seen
        self._batch: list[Replacement] = []

    async def run(self) -> None:
        async with _secrets(self._database) as secrets:
            async for secret in secrets:
                text = _classify(self.found, self._cipher, secret)
                self._seen()
                if text is None:
                    continue
                if self._batch and self._batch[0].secret.ref.collection != secret.ref.collection:
                    await self._write()
                value = _encrypted_again(self._cipher, secret, text)
                self._batch.append(Replacement(secret, value))
                if len(self._batch) == BATCH:
                    await self._write()
        await self._write()

    async def _write(self) -> None:
        batch, self._batch = self._batch, []
        if batch:
            done = await replace_secrets(self._database, batch)
            self.rewritten[batch[0].secret.ref.collection] += done.count
            self.refused += done.refused


@asynccontextmanager
async def _secrets(database: Database) -> AsyncIterator[AsyncIterator[StoredSecret]]:
    async with translated(), aclosing(stored_secrets(database)) as secrets:
        yield secrets


def _classify(found: Survey, cipher: Cipher, secret: StoredSecret) -> str | None:
    """Count a value, and return its text if it must be encrypted again."""
    try:
        readings = cipher.readings(secret.value, secret.ref)
    except DecryptionError as exc:
        found.unreadable.append(Untouched(secret.ref, exc.reason.value))
        return None
    if len(set(readings.values())) > 1:
        found.ambiguous.append(Untouched(secret.ref, AMBIGUOUS))
        return None
    key_id, text = next(iter(readings.items()))
    found.by_key.setdefault(secret.ref.collection, Counter())[key_id] += 1
    return None if key_id == cipher.key_id else text


def _encrypted_again(cipher: Cipher, secret: StoredSecret, text: str) -> str:
    """Encrypt *text* in the value's form, or in that of its location if the form is read-only."""
    form = stored_form(secret.value)
    if form is None or form is StoredForm.V3:
        form = secret.form
    match form:
        case StoredForm.V1:
            return cipher.encrypt_fixed_iv(text)
        case StoredForm.V2 | StoredForm.V3:
            return cipher.encrypt_shared(text)
        case StoredForm.GCM:
            return cipher.seal(text, secret.ref)
        case _:
            assert_never(form)
