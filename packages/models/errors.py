"""Errors of the generated models, each with the command that fixes it."""

from collections.abc import Sequence

GENERATE_COMMAND = "python scripts/generate_schemas.py"


class SchemasNotGeneratedError(ImportError):
    """The models of the shared collections have not been generated yet."""

    def __init__(self) -> None:
        super().__init__(
            "The models of the shared collections have not been generated. "
            f"Run: {GENERATE_COMMAND} (or: make schemas)."
        )


class SchemaVersionError(RuntimeError):
    """The generated models come from another release than this program expects."""

    def __init__(self, *, expected: str, found: str) -> None:
        super().__init__(
            f"Schema version mismatch: expected {expected}, found {found}. "
            f"Run: {GENERATE_COMMAND} --version {expected}"
        )
        self.expected = expected
        self.found = found


class SchemaMembersError(RuntimeError):
    """The generated models lack a field that this program writes, or have another type for it."""

    def __init__(self, version: str, problems: Sequence[str]) -> None:
        super().__init__(
            f"The models of {version} do not fit what this program writes: {'; '.join(problems)}. "
            "Use a release of this program that knows them, or generate the models of another."
        )


class UnknownTransportError(ValueError):
    """A configuration matches none of the transports."""

    def __init__(self, kind: str | None) -> None:
        named = "has no type" if kind is None else f"has the type {kind!r}"
        super().__init__(
            f"The configuration {named} and fits none of the transports "
            "stdio, websocket, sse, streamable-http."
        )
        self.kind = kind
