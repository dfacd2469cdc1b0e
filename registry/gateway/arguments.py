"""Whether the arguments of a call fit the definition of a tool that was approved. Pure.

Checked where the server offers another definition by now: what a client sends by that one must not
pass before somebody has looked at it. Otherwise the server checks its arguments itself.
"""

from collections.abc import Mapping
from typing import Any

import jsonschema_rs

from registry.core.json import JsonObject

UNCHECKABLE = "the approved definition cannot be checked; its server's operators must decide"


class ArgumentCheck:
    """Checks arguments against one schema, which is compiled by the first call.

    Args:
        schema: The tool's `inputSchema`.
    """

    __slots__ = ("_schema", "_validator")

    def __init__(self, schema: JsonObject) -> None:
        self._schema = schema
        self._validator: Any = None

    def problem(self, arguments: Mapping[str, Any]) -> str | None:
        """Return what is wrong with *arguments*, without their values; None when they fit."""
        if self._validator is None:
            try:
                self._validator = jsonschema_rs.validator_for(self._schema, retriever=_nothing)
            except (jsonschema_rs.ValidationError, ValueError):
                # What cannot be checked does not pass.
                return UNCHECKABLE
        error = next(self._validator.iter_errors(arguments), None)
        if error is None:
            return None
        place = "".join(f"/{part}" for part in error.instance_path) or "/"
        return f"{place} breaks {'/'.join(map(str, error.schema_path))}"


def _nothing(uri: str) -> Any:
    """Fetch no schema from anywhere."""
    raise ValueError(f"{uri} is not part of the definition")
