"""Change the key of stored credentials: say under which keys they are, and encrypt them anew.

Works beside everything else that uses the database. Each value is replaced by itself and only
where the old one still is, so nothing that is stored meanwhile is lost. After a kill it is simply
run again: what is under the current key is left alone.

A value counts as being under the one key that opens it. CBC and CTR have no integrity, so by a
small chance a second key makes another text of it (CBC: below one in a million; CTR, which is
checked for UTF-8 alone: often when the text is short). Which text is right cannot be told, and a
wrong guess would destroy the credential, so such a value is left as it is and reported, to be
entered again.
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
"""Values written with one command. Each is replaced by itself; this bounds time and memory."""

PASSES = 10
"""A pass finds what was stored with an older key during the one before. If every one finds some,
something goes on writing with that key, and more passes will not help."""

AMBIGUOUS = "several keys open it, each to another text; enter it again"
REFUSED = "the database refused the new value"


@dataclass(frozen=True, slots=True)
class Untouched:
    """A value that was left as it is, and why."""

    ref: FieldRef
    reason: str


@dataclass(slots=True)
class Survey:
    """Under which keys the stored values are.

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
        """Return how many values there are."""
        readable = sum(keys.total() for keys in self.by_key.values())
        return readable + len(self.unreadable) + len(self.ambiguous)

    @property
    def older(self) -> Counter[str]:
        """Return how many values need another key than the current one, by collection."""
        return Counter(
            {
                collection: keys.total() - keys[self.key_id]
                for collection, keys in self.by_key.items()
                if keys.total() > keys[self.key_id]
            }
        )

    @property
    def needs_older_key(self) -> bool:
        """Whether some value needs, or may need, another key than the current one."""
        return bool(self.older or self.ambiguous)

    @property
    def is_clean(self) -> bool:
        """Whether the current key opens everything."""
        return not (self.needs_older_key or self.unreadable)


@dataclass(frozen=True, slots=True)
class Rotation:
    """What one run did.

    Attributes:
        rewritten: How many values were encrypted anew, by collection.
        refused: Values whose replacement the database refused.
        passes: How many times everything was looked at.
        after: What the last pass found.
    """

    rewritten: Counter[str]
    refused: tuple[Untouched, ...]
    passes: int
    after: Survey

    @property
    def is_complete(self) -> bool:
        """Whether the current key opens everything now."""
        return self.after.is_clean


async def survey(database: Database, cipher: Cipher) -> Survey:
    """Say under which keys the stored values are. Changes nothing.

    Raises:
        DatabaseUnavailable: They cannot be read.
    """
    found = Survey(cipher.key_id)
    async with _secrets(database) as secrets:
        async for secret in secrets:
            _take_in(found, cipher, secret)
    return found


async def rotate(
    database: Database, cipher: Cipher, *, seen: Callable[[], None] = lambda: None
) -> Rotation:
    """Encrypt everything that is under an older key anew, under the current one.

    Args:
        database: Where.
        cipher: Has the older keys among its further ones.
        seen: Called for each value of the first pass.

    Raises:
        DatabaseUnavailable: The database went away; run it again to go on.
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
    """One look at everything, during which what is under an older key is replaced."""

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
                text = _take_in(self.found, self._cipher, secret)
                self._seen()
                if text is None:
                    continue
                if self._batch and self._batch[0].secret.ref.collection != secret.ref.collection:
                    await self._write()
                value = _encrypted_anew(self._cipher, secret, text)
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


def _take_in(found: Survey, cipher: Cipher, secret: StoredSecret) -> str | None:
    """Count a value in, and return its text when it is to be encrypted anew."""
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


def _encrypted_anew(cipher: Cipher, secret: StoredSecret, text: str) -> str:
    """Return *text* in the form the value has, or in its place's, where that is only read."""
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
