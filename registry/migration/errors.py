"""Failures of the reading of dumps."""

from registry.core.errors import ErrorKind, RegistryError


class DumpError(RegistryError):
    """A dump cannot be read as a whole; a bad row costs only itself."""

    kind = ErrorKind.INVALID

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source} {reason}")
