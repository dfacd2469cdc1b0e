"""docker-compose.yml: it is well formed, has no default secrets, and its variables are documented.

No container engine is needed: the file is read as what it is.
"""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import jsonschema_rs
import pytest
import yaml
from typing_extensions import override

from registry.core.settings import Settings
from tests.repository.files import ROOT

TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
REGISTRY = SERVICES["registry"]
MONGODB = SERVICES["mongodb"]
EXAMPLE = (ROOT / ".env.example").read_text()

INTERPOLATED = re.compile(r"(?<!\$)\$\{([A-Z_]+)(:?[-?])?([^}]*)\}")
"""Groups: name, operator, default or message."""
EXAMPLE_LINE = re.compile(r"^(# )?([A-Z][A-Z_]*)=(.*)$", re.MULTILINE)
LOCAL_MODE = {"REGISTRY_HOME", "REGISTRY_LOCAL"}
"""Settings that mean nothing in a container."""

PASSED_ON = {name for name, value in REGISTRY["environment"].items() if value is None}
DEFAULTS = {name: rest for name, operator, rest in INTERPOLATED.findall(TEXT) if operator == ":-"}
REQUIRED = {name for name, operator, _ in INTERPOLATED.findall(TEXT) if operator == ":?"}


def test_it_follows_the_compose_specification() -> None:
    schema = json.loads((ROOT / "tests/repository/data/compose-spec.json").read_text())

    errors = [str(error) for error in jsonschema_rs.validator_for(schema).iter_errors(COMPOSE)]

    assert errors == []


def test_every_variable_has_a_default_or_is_required() -> None:
    bare = [name for name, operator, _ in INTERPOLATED.findall(TEXT) if not operator]

    assert bare == []


def test_no_secret_has_a_default() -> None:
    assert DEFAULTS == {
        "MONGO_ROOT_USERNAME": "root",
        "MONGO_APP_USERNAME": "registry",
        "MONGO_DATABASE": "jarvis",
        "PUBLISH_ADDRESS": "127.0.0.1",
        "PUBLISH_PORT": "7860",
    }
    assert {
        "MONGO_ROOT_PASSWORD",
        "MONGO_APP_PASSWORD",
        "MONGO_KEY_FILE",
        "CREDS_KEY",
        "CREDS_IV",
        "JWT_PRIVATE_KEY_FILE",
        "JWT_PUBLIC_KEY_FILE",
    } <= REQUIRED
    assert "JWT_SECRET" in PASSED_ON


def test_the_registry_gets_every_setting() -> None:
    settings = {name.upper() for name in Settings.model_fields}

    assert set(REGISTRY["environment"]) == settings - LOCAL_MODE


def test_the_example_lists_every_variable_and_requires_the_same_ones() -> None:
    listed = {name: bool(optional) for optional, name, _ in EXAMPLE_LINE.findall(EXAMPLE)}

    required = {name for name, optional in listed.items() if not optional}

    assert set(listed) == REQUIRED | set(DEFAULTS) | PASSED_ON
    assert required == REQUIRED


def test_the_example_has_no_values() -> None:
    assert [line for line in EXAMPLE_LINE.findall(EXAMPLE) if line[2]] == []


def test_the_operations_page_explains_every_variable_of_its_own() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()

    assert [name for name in REQUIRED | set(DEFAULTS) if f"`{name}`" not in page] == []


def test_mongodb_is_an_authenticated_replica_set() -> None:
    assert MONGODB["image"].startswith("mongo:8")
    assert {"--replSet=rs0", "--auth", "--keyFile=/run/mongodb/key"} <= set(MONGODB["command"])
    assert MONGODB["secrets"] == ["mongo_key"]
    entrypoint = (ROOT / "deploy/mongodb-entrypoint.sh").read_text()
    assert "-m 0400 /run/secrets/mongo_key /run/mongodb/key" in entrypoint
    assert '"rs0"' in (ROOT / "deploy/mongodb-init.js").read_text()
    assert "replicaSet=rs0" in REGISTRY["environment"]["MONGO_URI"]


def test_only_the_registry_is_published_and_only_on_loopback() -> None:
    published = {
        name: service["ports"] for name, service in SERVICES.items() if "ports" in service
    }

    assert published == {"registry": ["${PUBLISH_ADDRESS:-127.0.0.1}:${PUBLISH_PORT:-7860}:7860"]}
    assert MONGODB["networks"] == ["database"]
    assert COMPOSE["networks"]["database"] == {"internal": True}


def test_the_registry_runs_without_privileges() -> None:
    assert REGISTRY["user"] == "10001:10001"
    assert REGISTRY["read_only"] is True
    assert REGISTRY["cap_drop"] == ["ALL"]


def test_the_registry_starts_after_a_healthy_database_with_its_user() -> None:
    assert REGISTRY["depends_on"] == {
        "mongodb": {"condition": "service_healthy"},
        "mongodb-init": {"condition": "service_completed_successfully"},
    }
    assert "healthcheck" in MONGODB


@pytest.mark.parametrize("name", list(SERVICES))
def test_every_service_is_limited_and_restarted(name: str) -> None:
    service = SERVICES[name]

    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    assert service["restart"] in {"unless-stopped", "on-failure"}
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_files_that_are_mounted_exist() -> None:
    mounted = [
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
        if volume.startswith("./")
    ]

    assert [name for name in mounted if not (ROOT / name).is_file()] == []
    assert len(mounted) == 2


class _Health(BaseHTTPRequestHandler):
    """Answers one path with 200 and another with 503."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health/ready" else 503)
        self.end_headers()

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.fixture
def health_port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), _Health) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def probe(script: str) -> int:
    """Run a health check's script with our interpreter and return its exit code."""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    return run.returncode


def test_the_health_check_tells_ready_from_not_ready(health_port: int) -> None:
    kind, program, option, script = REGISTRY["healthcheck"]["test"]
    here = script.replace(":7860/", f":{health_port}/")

    assert (kind, program, option) == ("CMD", "python", "-c")
    assert probe(here) == 0
    assert probe(here.replace("/ready", "/unready")) != 0
