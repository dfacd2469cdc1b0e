"""What makes a record genuine and a removed one noticed.

* Each record carries an HMAC, so that a record which did not come from this program is known.
* Seals list the digests of the records written since the seal before; each holds the hash of that
  seal, so that none can be taken out or changed. The HMAC of the last one stands for all of them.

The keys derive from CREDS_KEY. Whoever has the database but not the key can neither add a record
nor change or remove a sealed one unnoticed. Taking off the end of both collections together shows
only against a `seq` and `hash` noted elsewhere: each new seal is logged as `audit_sealed`.
"""

import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime

from bson import ObjectId
from bson.json_util import CANONICAL_JSON_OPTIONS, dumps

from packages.database.client import Doc

FIRST = "0" * 64
"""Stands for the hash of the seal before the first."""

PURPOSE = "audit"


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
        """Whether *mac* fits; None when its key is not at hand."""
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
    """Whether a stored record came from this program; None when its key is not at hand."""
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
    hashed = seal_hash(content)
    return {
        **content,
        "hash": hashed,
        "kid": keys.current,
        "mac": keys.sign(keys.current, hashed.encode()),
    }


def seal_hash(seal: Doc) -> str:
    """Return the hash that *seal* must have."""
    content = {name: seal.get(name) for name in ("previous", "sealed_at", "records")}
    return hashlib.sha256(_canonical({"_id": int(seal["_id"]), **content})).hexdigest()


def _canonical(document: Doc) -> bytes:
    # Extended JSON says the type of every value; sorted, because members have no order.
    return dumps(
        document,
        json_options=CANONICAL_JSON_OPTIONS,
        sort_keys=True,
        separators=(",", ":"),
    ).encode()
