"""Modules of the SDK that are loaded without the rest of it."""

import subprocess
import sys

LOADED = """
import sys
import registry.main
import registry.processes.serving
print(*sorted(name for name in sys.modules if name.partition(".")[0] in {"mcp", "httpx2"}))
"""

LATER = """
from registry.upstream import sdk
import mcp.shared.inbound
assert mcp.Client is not None
assert mcp.shared.inbound.encode_header_value("ä") == sdk.encode_header_value("ä")
"""


def test_a_serving_process_does_not_load_the_sdks_client_and_server() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=True
    )

    assert loaded.stdout.split() == []


def test_the_sdk_can_be_imported_as_usual_afterwards() -> None:
    subprocess.run([sys.executable, "-c", LATER], check=True)
