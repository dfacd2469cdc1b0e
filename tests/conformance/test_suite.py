"""The official conformance suite: directly, and through the gateway of a real registry."""

from pathlib import Path
from typing import Literal

import pytest
import pytest_asyncio
from pydantic_settings import BaseSettings

from tests.conformance.page import PAGE, page
from tests.conformance.paths import (
    COMBINED,
    DIRECT,
    NOT_TESTABLE,
    ONE_SERVER,
    Findings,
    find_all,
)
from tests.conformance.suite import REVISIONS, client_requirements, requirements
from tests.npm.programs import INSTALL_SECONDS, new_node

FIRST_TEST_SECONDS = INSTALL_SECONDS + 480

pytestmark = [
    pytest.mark.node,
    pytest.mark.wire,
    pytest.mark.timeout(FIRST_TEST_SECONDS),
    pytest.mark.asyncio(loop_scope="module"),
]

NOT_APPLICABLE: dict[str, str] = {}
"""Scored scenarios that one server passes and a path of many cannot, with the reason."""


KNOWN_DIFFERENCES: dict[str, str] = {}
"""Scenarios, none of them scored, that fail behind the gateway alone, with the reason."""


CLIENT_WARNINGS = {
    "auth/basic-cimd": {"cimd-client-id-used"},
}
"""What the suite warns of in clients that authorise. It demands an https URL of its own as client
id; the registry's client id is its own metadata document, and there is none without https."""


NOT_AS_A_CLIENT = {
    "auth/client-credentials-jwt": "the registry signs with its own keys, none it is given",
    "auth/enterprise-managed-authorization": "identity assertion grants are not supported",
    "auth/wif-jwt-bearer": "JWT bearer grants of workloads are not supported",
    "auth/dpop": "proofs of possession are not supported",
    "auth/dpop-nonce": "proofs of possession are not supported",
}
"""Scenarios of extensions, none of them scored, that fail."""


class Demand(BaseSettings):
    """What to do with the page: compare it with what was found, or write it."""

    conformance_page: Literal["compare", "write"] = "compare"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def findings(
    mongo_uri: str, key_files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Findings:
    """Return what the suite found on every path."""
    return await find_all(new_node(), mongo_uri, key_files, tmp_path_factory.mktemp("conformance"))


@pytest.mark.parametrize("revision", REVISIONS)
async def test_every_scored_scenario_passes_on_every_path(
    findings: Findings, revision: str
) -> None:
    by_path = findings.by_revision[revision]

    problems = {
        (path, name): found[name].failures
        for path, found in by_path.items()
        for name in requirements(revision).scored
        if found[name].failures
        and not (path not in {DIRECT, ONE_SERVER} and name in NOT_APPLICABLE)
    }

    assert {DIRECT, ONE_SERVER} <= by_path.keys()
    assert problems == {}


async def test_what_the_gateway_alone_fails_of_the_unscored_is_known(findings: Findings) -> None:
    failing = {
        name
        for by_path in findings.by_revision.values()
        for name, outcome in by_path[DIRECT].items()
        if outcome.is_clean and not by_path[ONE_SERVER][name].is_clean
    }

    assert failing == KNOWN_DIFFERENCES.keys()


async def test_tools_that_a_server_does_not_list_are_all_that_cannot_be_tested_behind_the_gateway(
    findings: Findings,
) -> None:
    failing = {path: outcome.failed for path, outcome in findings.plain.items()}

    assert failing == {DIRECT: set(), ONE_SERVER: NOT_TESTABLE, COMBINED: NOT_TESTABLE}


@pytest.mark.parametrize("revision", REVISIONS)
async def test_a_client_authorises_through_the_registry_in_every_scored_scenario(
    findings: Findings, revision: str
) -> None:
    found = findings.clients[revision]

    problems = {
        name: found[name].failures
        for name in client_requirements(revision).scored
        if found[name].failures or not found[name].passed
    }
    warned = {
        name: {warning.partition(":")[0] for warning in outcome.warnings}
        for name, outcome in found.items()
        if outcome.warnings
    }

    assert problems == {}
    assert warned == CLIENT_WARNINGS


@pytest.mark.parametrize("revision", REVISIONS)
async def test_what_fails_of_extensions_of_authorization_is_known(
    findings: Findings, revision: str
) -> None:
    found = findings.clients[revision]

    failing = {name for name in client_requirements(revision).unscored if found[name].failures}

    assert failing == NOT_AS_A_CLIENT.keys()


async def test_the_page_is_what_was_found(findings: Findings) -> None:
    found = page(findings)
    if Demand().conformance_page == "write":
        PAGE.write_text(found)

    assert PAGE.read_text() == found, "run `make test-conformance`"
