"""Python names for the names on the wire."""

import builtins
import keyword
import re
from collections.abc import Iterable

from beanie import Document

ANNOTATION_NAMES = frozenset({"Annotated", "Any", "ClassVar", "Literal"})
RESERVED = (
    frozenset(dir(Document))
    | frozenset(keyword.kwlist)
    | frozenset({"bool", "dict", "float", "int", "list", "str"})
    | ANNOTATION_NAMES
    | {"id"}
)
"""Names that a field must not take: it would hide what the class or its annotations need. A
published `id` is one of them: the document's own `id` is `_id`."""

CLASS_NAME = re.compile(r"[A-Z][A-Za-z0-9]*")

UNUSABLE_CLASS_NAMES = frozenset(
    {
        "AwareDatetime",
        "BaseModel",
        "ConfigDict",
        "Document",
        "Field",
        "IndexModel",
        "ObjectIdField",
        "Settings",
    }
) | frozenset(dir(builtins))


def field_name(wire_name: str) -> str:
    """Return the Python name of a field: `requiresOAuth` becomes `requires_oauth`."""
    text = wire_name.replace("OAuth", "Oauth")
    text = re.sub(r"[^A-Za-z0-9]+", "_", text)
    text = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", text)
    text = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", text)
    text = re.sub(r"_+", "_", text).strip("_").lower()
    if not text or text[0].isdigit():
        text = f"field_{text}".rstrip("_")
    return f"{text}_" if text in RESERVED or text.startswith("model_") else text


def field_names(wire_names: Iterable[str]) -> dict[str, str]:
    """Return a Python name for each wire name, no two of them alike."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for wire_name in sorted(set(wire_names)):
        base = field_name(wire_name)
        name, count = base, 1
        while name in taken:
            count += 1
            name = f"{base}_{count}"
        taken.add(name)
        names[wire_name] = name
    return names


def class_name(text: str) -> str:
    """Return *text* as a class name: `rate-limit` becomes `RateLimit`."""
    words = re.split(r"[^A-Za-z0-9]+", text)
    name = "".join(word[:1].upper() + word[1:] for word in words)
    if not name or name[0].isdigit():
        name = f"Model{name}"
    return f"{name}Model" if name in UNUSABLE_CLASS_NAMES else name


def is_class_name(text: object) -> bool:
    """Whether *text* can stand as a class name as it is."""
    return (
        isinstance(text, str)
        and CLASS_NAME.fullmatch(text) is not None
        and text not in UNUSABLE_CLASS_NAMES
    )
