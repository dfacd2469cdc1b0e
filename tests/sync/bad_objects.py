"""Objects of lists that parsers differ on or refuse, as JSON text with a name in it."""

from registry.core.definitions import MAX_DEPTH, NO_NUMBER, TOO_DEEP

BROKEN = "contains invalid Unicode"
REPEATED = "has two members of one name"


def with_schema(name: str, schema: bytes) -> bytes:
    """Return a tool whose schema has an unknown member."""
    return b'{"name":"%s","inputSchema":{"type":"object","x":%s}}' % (name.encode(), schema)


def nested(levels: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    """Return a value of so many levels."""
    return opening * levels + b"0" + closing * levels


def bad_tools(name: str) -> dict[str, tuple[bytes, str]]:
    """Return tools called *name* that cannot be taken, and why, by what is wrong with them."""
    values = {
        "just too deep": (nested(MAX_DEPTH), TOO_DEEP),
        "deeper than the SDK reads": (nested(250), TOO_DEEP),
        "deeper than Python reads": (nested(5_000), TOO_DEEP),
        "objects that deep": (nested(5_000, b'{"a":[1,"}]",', b"]}"), TOO_DEEP),
        "a million brackets": (nested(1_000_000), TOO_DEEP),
        "a million objects": (nested(300_000, b'[{"]":', b"}]"), TOO_DEEP),
        "half a pair": (rb'"\ud800"', BROKEN),
        "half a pair as a key": (rb'{"\udfff":1}', BROKEN),
        "no UTF-8": (b'"\xff"', BROKEN),
        "beyond floats": (b"1e999", NO_NUMBER),
        "NaN": (b"NaN", NO_NUMBER),
        "minus infinity": (b"-Infinity", NO_NUMBER),
        "5,000 digits": (b"9" * 5_000, NO_NUMBER),
        "400 digits": (b"9" * 400, NO_NUMBER),
        "a key twice": (b'{"a":1,"a":2}', REPEATED),
        "a line break in a text": (b'"a\x01b"', "is no JSON"),
        "a comma too many": (b"[1,]", "is no JSON"),
    }
    found = {told: (with_schema(name, value), reason) for told, (value, reason) in values.items()}
    found["its name twice"] = (b'{"name":"x","name":"%s"}' % name.encode(), REPEATED)
    found["its name at the end"] = (
        b'{"a":%s,"inputSchema":{"name":"y"},"name":"%s"}' % (nested(5_000), name.encode()),
        TOO_DEEP,
    )
    found["its name in escapes"] = (
        b'{"na\\u006de":"%s","a":"\\ud800"}'
        % "".join(f"\\u{ord(char):04x}" for char in name).encode(),
        BROKEN,
    )
    return found
