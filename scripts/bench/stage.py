"""What is measured: a registry with its upstream, on loopback, for one section at a time.

Each section has a registry of its own, so that none finds what another left.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.processes.local.home import LocalHome
from scripts.bench.load import Target
from scripts.bench.process import cpu_seconds, free_port, running

HOST = "127.0.0.1"
SERVER = "bench"
API_SECONDS = 60.0
SETTLE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Stage:
    """A running registry, with one upstream registered as `SERVER`.

    Attributes:
        pid: Of the process that was started: the only one that serves, or the parent of those.
        token: The administrator's.
        upstream_pid: Of the upstream's process.
        server_id: Of the registered server.
        folder: For files of this section.
    """

    pid: int
    home: Path
    port: int
    token: str
    upstream_port: int
    upstream_pid: int
    server_id: str
    folder: Path

    @property
    def mongo_uri(self) -> str:
        """Return the connection string of the registry's database."""
        return LocalHome(self.home).mongo_uri_file.read_text().strip()

    def gateway(self, path: str, **more: Any) -> Target:
        """Return a target at the gateway."""
        return Target(HOST, self.port, path, self.token, **more)

    def one(self, *, is_modern: bool = False) -> Target:
        """Return calls through the path of the one server."""
        return self.gateway(f"/mcp/{SERVER}", is_modern=is_modern)

    def combined(self, *, is_modern: bool = False) -> Target:
        """Return the same calls through the combined server."""
        return self.gateway("/mcp", tool=f"{SERVER}__echo", is_modern=is_modern)

    def register(self, name: str, upstream_port: int, path: str = "/mcp") -> str:
        """Register a server on loopback, and return its id."""
        return _register(self.port, self.token, name, upstream_port, path)

    def ask(
        self, path: str, body: dict[str, object] | None, method: str | None = None
    ) -> dict[str, Any]:
        """Send a request to the API, below `/api/v1/`, and return the answer."""
        return _ask(self.port, self.token, path, body, method)

    def remove(self, path: str) -> None:
        """Delete what is below `/api/v1/` at *path*."""
        request = urllib.request.Request(
            f"http://{HOST}:{self.port}/api/v1/{path}",
            headers={"Authorization": f"Bearer {self.token}"},
            method="DELETE",
        )
        with urllib.request.urlopen(request, timeout=API_SECONDS):  # noqa: S310 - loopback
            pass

    def toggle(self, *, is_enabled: bool) -> None:
        """Switch the server on or off."""
        self._toggle(self.server_id, is_enabled=is_enabled)

    def switch_all_off(self) -> None:
        """Switch all servers off that are registered; a local registry comes with one."""
        for server in _ask(self.port, self.token, "servers", None)["servers"]:
            self._toggle(server["id"], is_enabled=False)

    def _toggle(self, server_id: str, *, is_enabled: bool) -> None:
        _ask(self.port, self.token, f"servers/{server_id}/toggle", {"enabled": is_enabled})

    def metric(self, name: str) -> float:
        """Return the sum of the samples of one metric."""
        url = f"http://{HOST}:{self.port}/metrics"
        with urllib.request.urlopen(url, timeout=API_SECONDS) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if _is_of(line, name))

    def await_records(self) -> None:
        """Wait until the records of all calls are in the database."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline and self.metric("usage_records_pending"):
            time.sleep(0.5)
        time.sleep(1)

    def workers(self) -> list[int]:
        """Return the ids of the processes that serve, when several do."""
        return self._children(b"worker")

    def database(self) -> int:
        """Return the id of the embedded database's process."""
        (pid,) = self._children(b"secantus")
        return pid

    def _children(self, argument: bytes) -> list[int]:
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [
            int(pid)
            for pid in children
            if argument in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        ]

    def cpu_seconds(self) -> float:
        """Return the CPU time of the one process that serves."""
        return cpu_seconds(self.pid)


def _is_of(line: str, name: str) -> bool:
    return line.startswith((f"{name} ", f"{name}{{"))


@contextmanager
def staged(*options: str) -> Iterator[Stage]:
    """Run a registry that is started with *options*, and an upstream."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream_port, upstream_pid = stack.enter_context(_upstream())
        home, port = folder / "home", free_port()
        process = stack.enter_context(serving(home, port, *options))
        token = (home / "admin.token").read_text().strip()
        server_id = _register(port, token, SERVER, upstream_port, "/mcp")
        yield Stage(
            pid=process.pid,
            home=home,
            port=port,
            token=token,
            upstream_port=upstream_port,
            upstream_pid=upstream_pid,
            server_id=server_id,
            folder=folder,
        )


@contextmanager
def serving(home: Path, port: int, *options: str) -> "Iterator[subprocess.Popen[bytes]]":
    """Run a complete registry with its data below *home*."""
    command = [str(Path(sys.executable).with_name("registry")), "serve", "--local", *options]
    environment = {"REGISTRY_HOME": str(home), "REGISTRY_PORT": str(port)}
    with running(command, f"http://{HOST}:{port}/health/ready", environment) as process:
        yield process


@contextmanager
def nginx(stage: Stage) -> Iterator[tuple[int, int] | None]:
    """Run nginx before the upstream, where it is installed; give its port and process id."""
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if binary is None:
        yield None
        return
    port = free_port()
    root = stage.folder / "nginx"
    root.mkdir()
    (root / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {root}/pid; error_log {root}/error.log;\n"
        "events { worker_connections 256; }\n"
        "http { access_log off; keepalive_requests 100000000; "
        f"client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; "
        f"fastcgi_temp_path {root}/f; uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;\n"
        f"upstream mcp {{ server {HOST}:{stage.upstream_port}; "
        "keepalive 64; keepalive_requests 100000000; }\n"
        f"server {{ listen {HOST}:{port}; location / {{ proxy_pass http://mcp; "
        'proxy_http_version 1.1; proxy_set_header Connection ""; } } }\n'
    )
    command = [binary, "-c", str(root / "nginx.conf")]
    with running(command, f"http://{HOST}:{port}/") as process:
        yield port, process.pid


@contextmanager
def _upstream() -> Iterator[tuple[int, int]]:
    port = free_port()
    command = [sys.executable, "-m", "scripts.bench.upstream", str(port)]
    with running(command, f"http://{HOST}:{port}/") as process:
        yield port, process.pid


def _register(port: int, token: str, name: str, upstream_port: int, path: str) -> str:
    url = f"http://{HOST}:{upstream_port}{path}"
    server = _ask(port, token, "servers", {"serverName": name, "url": url})
    if server["status"] != "active":
        raise RuntimeError(server["errorMessage"])
    return str(server["id"])


def _ask(
    port: int, token: str, path: str, body: dict[str, object] | None, method: str | None = None
) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://{HOST}:{port}/api/v1/{path}",
        None if body is None else json.dumps(body).encode(),
        {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        method=method,
    )
    try:
        with urllib.request.urlopen(request, timeout=API_SECONDS) as answer:  # noqa: S310 - loopback
            found: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{path}: {error.read().decode()[:500]}") from error
    return found
