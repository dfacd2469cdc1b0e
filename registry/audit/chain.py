"""HMACs of audit records, and the hash chain of seals over them. Pure.

* Each record has an HMAC, which shows whether it was written by this program.
* A seal lists the digests of the records written since the previous seal, and holds that seal's
  hash, so that no seal can be removed or changed. The HMAC of the last seal covers all of them.

The keys derive from CREDS_KEY. With access to the database but not to the key, adding a record, or
changing or removing a sealed one, is detected. Truncating both collections together is detected
only by a `seq` and `hash` stored elsewhere: each new seal is logged as `audit_sealed`.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from bson import ObjectId
from bson.json_util import CANONICAL_JSON_OPTIONS, dumps

from packages.database.client import Doc
from packages.database.stored import EARLIEST, moment_of, text_of, whole_of

FIRST = "0" * 64
"""The first seal's `previous`."""

PURPOSE = "audit"

LATE = timedelta(minutes=5)
"""How long after its timestamp a record may still turn up: the longest transaction, and clocks
that differ between replicas."""


class AuditKeys:
    """The keys of the HMACs.

    Args:
        keys: By key id, the current one first; the others are for what was written with them.
    """

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self._keys = dict(keys)
        self.current = next(iter(self._keys))

    def sign(self, kid: str, content: bytes) -> str:
        """Return the HMAC-SHA256 of *content* in hexadecimal.

        Raises:
            KeyError: There is no such key.
        """
        return hmac.new(self._keys[kid], content, hashlib.sha256).hexdigest()

    def is_genuine(self, kid: object, content: bytes, mac: object) -> bool | None:
        """Whether *mac* is valid; None if its key is not available."""
        if not isinstance(kid, str) or not isinstance(mac, str):
            return False
        if kid not in self._keys:
            return None
        return hmac.compare_digest(self.sign(kid, content), mac)


def sign_record(document: Doc, keys: AuditKeys) -> Doc:
    """Return *document* with `kid` and `mac`."""
    signed = {**document, "kid": keys.current}
    return {**signed, "mac": keys.sign(keys.current, _canonical(signed))}


def is_genuine_record(document: Doc, keys: AuditKeys) -> bool | None:
    """Whether a stored record is from this program; None if its key is not available."""
    content = {name: value for name, value in document.items() if name != "mac"}
    return keys.is_genuine(document.get("kid"), _canonical(content), document.get("mac"))


def digest(document: Doc) -> str:
    """Return the SHA-256 of a stored record in hexadecimal."""
    return hashlib.sha256(_canonical(document)).hexdigest()


def seal_of(
    seq: int, previous: str, records: Mapping[ObjectId, str], sealed_at: datetime, keys: AuditKeys
) -> Doc:
    """Return the seal over *records*, digests by id."""
    content: Doc = {
        "_id": seq,
        "previous": previous,
        "sealed_at": sealed_at,
        "records": [{"id": key, "digest": value} for key, value in records.items()],
    }
    hashed = _seal_hash(seq, content)
    return {
        **content,
        "hash": hashed,
        "kid": keys.current,
        "mac": keys.sign(keys.current, hashed.encode()),
    }


@dataclass(frozen=True, slots=True)
class Seal:
    """A stored seal.

    Attributes:
        records: Digests by the ids of the records that it seals.
        is_intact: Whether its hash fits what it holds.
        is_genuine: Whether its HMAC fits its hash; None when that key is not at hand.
    """

    number: int
    previous: str
    sealed_at: datetime
    records: Mapping[ObjectId, str]
    hash: str
    kid: str
    is_intact: bool
    is_genuine: bool | None

    @property
    def is_usable(self) -> bool:
        """Whether the next seal may follow it."""
        return self.is_intact and self.is_genuine is not False


def seal_number(stored: Doc) -> int | None:
    """Return the number of a stored seal; None when its `_id` is none."""
    key = stored["_id"]
    number = None if isinstance(key, bool) else whole_of(key)
    return number if number == key else None


def read_seal(stored: Doc, keys: AuditKeys) -> Seal | None:
    """Return a stored seal as a value; None when a member is missing, or of another type."""
    number, sealed_at = seal_number(stored), moment_of(stored.get("sealed_at"))
    previous, hashed = text_of(stored.get("previous")), text_of(stored.get("hash"))
    kid, records = text_of(stored.get("kid")), _digests(stored.get("records"))
    if number is None or previous is None or hashed is None or kid is None or records is None:
        return None
    if sealed_at is None or sealed_at < EARLIEST + 2 * LATE:
        return None
    is_genuine = keys.is_genuine(kid, hashed.encode(), stored.get("mac"))
    is_intact = _seal_hash(number, stored) == hashed
    return Seal(number, previous, sealed_at, records, hashed, kid, is_intact, is_genuine)


def _digests(stored: object) -> dict[ObjectId, str] | None:
    if not isinstance(stored, list):
        return None
    digests: dict[ObjectId, str] = {}
    for entry in stored:
        match entry:
            case {"id": ObjectId() as key, "digest": str(value)}:
                digests[key] = value
            case _:
                return None
    return digests


def _seal_hash(number: int, seal: Doc) -> str:
    content = {name: seal.get(name) for name in ("previous", "sealed_at", "records")}
    return hashlib.sha256(_canonical({"_id": number, **content})).hexdigest()


def _canonical(document: Doc) -> bytes:
    try:
        # Extended JSON preserves the type of every value; sorted, because members have no order.
        text = dumps(
            document,
            json_options=CANONICAL_JSON_OPTIONS,
            sort_keys=True,
            separators=(",", ":"),
        )
    except (TypeError, ValueError):
        # It holds what this program never writes, and must differ from all that it does.
        text = f"not written by the registry: {document!r}"
    return text.encode(errors="surrogatepass")
