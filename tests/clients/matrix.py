"""Which client talks to which server on which path. A cell more is a word more in `MATRIX`."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from typing_extensions import override

from tests.clients.report import Report, report_of


class Upstream(StrEnum):
    """Which protocol eras the server speaks."""

    LEGACY = "legacy"
    MODERN = "modern"
    BOTH = "both"


class Program(StrEnum):
    """What runs the client."""

    PYTHON = "python-sdk"
    TYPESCRIPT_V1 = "typescript-v1"
    TYPESCRIPT_V2 = "typescript-v2"
    FASTMCP = "fastmcp"
    INSPECTOR = "inspector"


class GatewayPath(StrEnum):
    """Where a server is met."""

    ONE = "/mcp/<server>"
    COMBINED = "/mcp"

    def of(self, slug: str) -> str:
        """Return the path of a server."""
        return self.value.replace("<server>", slug)

    def prefix(self, slug: str) -> str:
        """Return what the server's tools and prompts are called by besides their names."""
        return f"{slug}__" if self is GatewayPath.COMBINED else ""


@dataclass(frozen=True, slots=True)
class Client:
    """A client in one of its modes.

    Attributes:
        mode: As the client itself calls it.
        does: What it can do, as members of a report; nothing stands for everything.
    """

    program: Program
    mode: str
    does: tuple[str, ...] = ()

    @property
    def expected(self) -> Report:
        """What it must see."""
        return report_of(*self.does)


INSPECTED = ("tools", "echo", "prompt", "resource")

ONE_EACH = (Upstream.LEGACY, Upstream.MODERN)
ANY = tuple(Upstream)

MATRIX: dict[GatewayPath, dict[Client, tuple[Upstream, ...]]] = {
    GatewayPath.ONE: {
        Client(Program.PYTHON, "legacy"): ANY,
        Client(Program.PYTHON, "auto"): ANY,
        Client(Program.PYTHON, "2026-07-28"): ANY,
        Client(Program.TYPESCRIPT_V1, "legacy"): ONE_EACH,
        Client(Program.TYPESCRIPT_V2, "legacy"): ONE_EACH,
        Client(Program.TYPESCRIPT_V2, "auto"): ANY,
        Client(Program.TYPESCRIPT_V2, "2026-07-28"): ONE_EACH,
        Client(Program.FASTMCP, "legacy"): ONE_EACH,
        Client(Program.FASTMCP, "auto"): ONE_EACH,
        Client(Program.INSPECTOR, "legacy", INSPECTED): ONE_EACH,
        Client(Program.INSPECTOR, "modern", INSPECTED): ONE_EACH,
    },
    GatewayPath.COMBINED: {
        Client(Program.PYTHON, "legacy"): ONE_EACH,
        Client(Program.PYTHON, "auto"): ANY,
        Client(Program.PYTHON, "2026-07-28"): ONE_EACH,
        Client(Program.TYPESCRIPT_V1, "legacy"): ONE_EACH,
        Client(Program.TYPESCRIPT_V2, "legacy"): ONE_EACH,
        Client(Program.TYPESCRIPT_V2, "auto"): ONE_EACH,
        Client(Program.TYPESCRIPT_V2, "2026-07-28"): ONE_EACH,
        Client(Program.FASTMCP, "legacy"): (Upstream.MODERN,),
        Client(Program.FASTMCP, "auto"): (Upstream.LEGACY,),
        Client(Program.INSPECTOR, "legacy", INSPECTED): (Upstream.MODERN,),
        Client(Program.INSPECTOR, "modern", INSPECTED): (Upstream.LEGACY,),
    },
}


class Cell(NamedTuple):
    """One meeting."""

    path: GatewayPath
    client: Client
    upstream: Upstream

    @override
    def __str__(self) -> str:
        return f"{self.client.program} {self.client.mode}, {self.upstream} on {self.path}"


def cells() -> Iterator[Cell]:
    """Return all that are served."""
    for path, clients in MATRIX.items():
        for client, upstreams in clients.items():
            for upstream in upstreams:
                yield Cell(path, client, upstream)
