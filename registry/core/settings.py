"""Settings of the application, read once from the environment.

docs/settings.md lists each of them; a test keeps that list complete.
"""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import platformdirs
from pydantic import (
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from registry.core.webhook_signatures import PREFIX, is_secret

CommaSeparated = Annotated[tuple[str, ...], NoDecode]
"""A tuple written as `a,b,c` in the environment."""

CREDS_KEY_HEX_CHARACTERS = 64
CREDS_IV_HEX_CHARACTERS = 32
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})


def default_home() -> Path:
    """Return the folder of local mode: the checkout's own, or else the user's."""
    own = Path(".registry")
    return own if own.is_dir() else platformdirs.user_data_path("mcp-gateway-registry")


class SettingsError(Exception):
    """The settings cannot be used.

    Attributes:
        problems: One sentence for each problem, safe to print.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class Settings(BaseSettings):
    """Settings of a running registry. Field names in capitals are the environment variables."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    mongo_uri: SecretStr = Field(
        description="Connection string of a MongoDB replica set, release 6.0 or later; its path "
        "names the database."
    )
    mongo_timeout_ms: int = Field(
        default=5000, ge=100, description="Longest wait for the database in milliseconds."
    )
    mongo_standalone_allowed: bool = Field(
        default=False,
        description="Whether a MongoDB that is no replica set will do: the gateway and everything "
        "that reads work, and every change is refused.",
    )
    creds_key: SecretStr = Field(
        description="Key for stored credentials: 64 hexadecimal characters (32 bytes)."
    )
    creds_keys_readable: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(),
        description="Further keys of stored credentials, read and never written with: the former "
        "one, or the next one, while the key is changed.",
    )
    creds_iv: SecretStr = Field(
        description="Fixed IV of the oldest stored form: 32 hexadecimal characters (16 bytes)."
    )
    jwt_private_key_file: Path = Field(
        description="PEM file with the RSA private key that signs our own tokens."
    )
    jwt_public_key_file: Path = Field(
        description="PEM file with the RSA public key published in the JWKS."
    )
    jwt_secret: SecretStr | None = Field(
        default=None, description="jarvis-api's JWT_SECRET; without it its tokens are refused."
    )
    jwt_issuer: str = Field(
        default="mcp-gateway-registry", description="`iss` of the tokens we issue and accept."
    )
    jwt_audience: str = Field(
        default="mcp-gateway", description="`aud` of the tokens we issue and accept."
    )
    jwt_leeway_seconds: int = Field(
        default=10, ge=0, le=300, description="Clock difference tolerated in token times."
    )
    user_cache_seconds: int = Field(
        default=15, ge=0, le=300, description="How long a user's role and groups are remembered."
    )

    user_directory: Literal["shared", "registry"] = Field(
        default="shared",
        description="Who keeps users and groups: `shared`, the application that shares the "
        "database, or `registry`: this program, as in local mode.",
    )

    token_reads_enabled: bool = Field(
        default=True, description="Whether users can read the values of their stored tokens."
    )
    token_max_hours: int = Field(
        default=720, ge=1, le=8760, description="Longest lifetime of an access token we issue."
    )
    token_family_days: int = Field(
        default=30, ge=1, le=365, description="How long issued tokens can be renewed, in days."
    )

    registry_host: str = Field(default="127.0.0.1", description="Address to listen on.")
    registry_port: int = Field(default=7860, ge=0, le=65535, description="Port to listen on.")
    registry_workers: int = Field(
        default=1, ge=1, le=256, description="Processes that serve; about one for each processor."
    )
    drain_delay_seconds: float = Field(
        default=0.0,
        ge=0,
        description="How long to serve on after SIGTERM, saying not ready, before it drains.",
    )
    drain_timeout_seconds: float = Field(
        default=10.0, ge=0, description="Longest time for requests in flight to end after that."
    )
    registry_home: Path = Field(
        default_factory=default_home,
        description="Folder of local mode: data, keys, admin token. By default `.registry` where "
        "there is one in the working folder (`make run` makes it), else "
        "`~/.local/share/mcp-gateway-registry`.",
    )
    registry_local: bool = Field(
        default=False, description="Set by `registry serve --local`; relaxes nothing by itself."
    )
    public_url: str | None = Field(
        default=None,
        validate_default=True,
        description="Address clients use; default `http://<host>:<port>`.",
    )
    allowed_hosts: CommaSeparated = Field(
        default=(),
        description="Further `Host` values answered besides PUBLIC_URL's and loopback at the "
        "registry's own port, with a port or, for any port, without.",
    )
    allowed_origins: CommaSeparated = Field(
        default=(), description="Browser origins that may call the gateway."
    )

    upstream_allowed_networks: CommaSeparated = Field(
        default=(), description="Private networks (CIDR) that upstream addresses may lie in."
    )
    upstream_connect_timeout_seconds: float = Field(
        default=5.0, gt=0, description="Longest wait for a connection to an upstream."
    )
    discovery_timeout_seconds: float = Field(
        default=30.0, gt=0, description="Longest time for reading one upstream's tools."
    )
    discovery_max_bytes: int = Field(
        default=16 * 1024 * 1024,
        gt=0,
        description="Most bytes read from one upstream.",
    )
    discovery_max_tools: int = Field(
        default=10_000, gt=0, description="Most tools taken from one upstream."
    )
    server_max_definition_bytes: int = Field(
        default=8 * 1024 * 1024,
        gt=0,
        description=(
            "Most bytes of the tools of one server, all definitions together, that are taken and "
            "served; as much again of its prompts, resources and templates."
        ),
    )

    gateway_max_body_bytes: int = Field(
        default=4 * 1024 * 1024, gt=0, description="Largest request body at the gateway and API."
    )
    request_body_timeout_seconds: float = Field(
        default=30.0, gt=0, description="Longest time in which a request's body must arrive."
    )
    request_head_timeout_seconds: float = Field(
        default=15.0, gt=0, description="Longest time in which a request's head must arrive."
    )
    max_client_connections: int = Field(
        default=8192, gt=0, description="Most connections of clients open at a time."
    )
    gateway_write_timeout_seconds: float = Field(
        default=30.0,
        gt=0,
        description="How long a client may take nothing of an answer before it is cut off.",
    )
    gateway_first_byte_timeout_seconds: float = Field(
        default=600.0,
        gt=0,
        description="Longest wait for the beginning of an upstream's answer; a server's own "
        "`timeout` goes before it. Clients have timeouts of their own, which end a call sooner.",
    )
    gateway_idle_timeout_seconds: float = Field(
        default=600.0,
        gt=0,
        description="Longest silence of an upstream within one answer; a server's own `timeout` "
        "goes before it.",
    )
    gateway_total_timeout_seconds: float = Field(
        default=600.0,
        gt=0,
        description="Longest time for one answer that is not a GET stream; a server's own "
        "`timeout`, where it is longer, goes before it.",
    )
    gateway_max_response_bytes: int = Field(
        default=64 * 1024 * 1024,
        gt=0,
        description="Longest answer, or event of one, that is put together in memory: on `/mcp` "
        "and between clients and servers of different protocols. Elsewhere answers of any length "
        "pass in pieces.",
    )
    gateway_concurrent_calls_per_server: int = Field(
        default=100, gt=0, description="Maximum number of concurrent calls to one server."
    )
    gateway_queued_calls_per_server: int = Field(
        default=200, ge=0, description="Maximum number of calls that wait for one of those to end."
    )
    gateway_queue_timeout_seconds: float = Field(
        default=5.0, gt=0, description="How long they wait before they are refused."
    )
    gateway_streams_per_server: int = Field(
        default=2500,
        gt=0,
        description="Maximum number of notification streams open to one server.",
    )
    gateway_breaker_failures: int = Field(
        default=5,
        ge=0,
        description="Consecutive failures that open a server's circuit breaker; 0 disables it.",
    )
    gateway_breaker_window_seconds: float = Field(
        default=30.0, gt=0, description="Time within which those failures must occur."
    )
    gateway_breaker_cool_down_seconds: float = Field(
        default=10.0,
        gt=0,
        description="How long the circuit breaker stays open, and the time between two probes.",
    )
    gateway_retry_idempotent: bool = Field(
        default=True,
        description="Whether a request without effects is sent once more when the upstream closes "
        "the connection without an answer.",
    )
    gateway_tools: Literal["all", "search"] = Field(
        default="all",
        description="Which tools clients find at /mcp and at toolsets' paths where neither "
        "`?tools=` nor their token says: `all`, or `search` for find_tool and call_tool in their "
        "place.",
    )
    gateway_always_visible_tools: CommaSeparated = Field(
        default=(),
        description="Names of tools, as /mcp lists them, that are listed beside find_tool and "
        "call_tool, separated by commas; `list_tools` adds a tool that returns the whole list.",
    )
    gateway_session_hours: float = Field(
        default=24.0, gt=0, description="How long a sealed session id stays valid."
    )
    gateway_question_timeout_seconds: float = Field(
        default=300.0,
        gt=0,
        description="How long a call waits for its user's answer to a question of the gateway.",
    )
    gateway_upstream_sessions: int = Field(
        default=10_000, gt=0, description="Most sessions with servers that one worker holds."
    )
    gateway_upstream_sessions_per_server: int = Field(
        default=2_500, gt=0, description="Most of these sessions with one server."
    )
    gateway_upstream_sessions_per_user: int = Field(
        default=500,
        gt=0,
        description="Most of these sessions that one user may have. At a bound the session that "
        "was idle for longest is ended for the new one.",
    )
    gateway_upstream_session_idle_seconds: float = Field(
        default=1800.0,
        gt=0,
        description="After which time without a call a session with a server is ended.",
    )
    gateway_watched_servers: int = Field(
        default=500,
        ge=0,
        description="Most servers that one worker listens to for changed lists while clients have "
        "streams open.",
    )
    gateway_streams_per_worker: int = Field(
        default=6_000, gt=0, description="Most streams open to clients on one worker at a time."
    )
    gateway_streams_per_user: int = Field(
        default=2_000, gt=0, description="Most of these streams that one user may have open."
    )
    gateway_max_staleness_seconds: float = Field(
        default=60.0,
        gt=0,
        description="How long the gateway and lists are served on without the database.",
    )
    snapshot_poll_seconds: float = Field(
        default=0.5,
        ge=0.05,
        le=60,
        description="How often the gateway asks a standalone MongoDB for changes.",
    )

    connection_state_ttl_seconds: float = Field(
        default=300.0,
        gt=0,
        description="How long the state of a connection is remembered without news of it.",
    )
    connection_state_max_entries: int = Field(
        default=10_000,
        gt=0,
        description="Most servers, and most connections of users, whose state is remembered.",
    )
    connection_idle_seconds: float = Field(
        default=300.0,
        gt=0,
        description="How long nothing need go over a connection before it counts as disconnected.",
    )
    connection_write_interval_seconds: float = Field(
        default=60.0,
        gt=0,
        description="Least time between two writes of a server's `lastConnected` or `lastError`.",
    )
    connection_failures_until_error: int = Field(
        default=3,
        ge=1,
        description="Attempts that fail in a row, of calls and refreshes, until an active "
        "server's `status` becomes `error`.",
    )
    connection_checks_at_start: int = Field(
        default=200,
        ge=0,
        le=10_000,
        description="How many servers a process connects to when it starts, those connected to "
        "last first, and how many users' own access tokens to servers are tried, the newest "
        "first, so that their state is known before the first call; 0 for none.",
    )
    server_versions_kept: int = Field(
        default=50,
        ge=1,
        le=10_000,
        description="How many versions of each server's connection are kept, the newest; the one "
        "in use always is.",
    )
    tool_versions_kept: int = Field(
        default=100,
        ge=1,
        le=10_000,
        description="How many versions of each tool's definition are kept, the newest; what is "
        "served, what waits, and what was served when these came always are.",
    )

    search_model: Literal["auto", "minilm-int8", "wordllama", "none"] = Field(
        default="auto",
        description="Model that finds by meaning: `minilm-int8` (extra `search`), `wordllama` "
        "(extra `search-light`), `none` for words alone, or `auto`: the first that is installed.",
    )
    sync_worker_enabled: bool = Field(
        default=True, description="Whether this process has servers read in the background."
    )
    sync_concurrency: int = Field(
        default=4, ge=1, le=256, description="Most servers read in the background side by side."
    )
    sync_poll_seconds: float = Field(
        default=1.0, ge=0.05, le=300, description="How often it looks for servers to read."
    )
    sync_lease_seconds: float = Field(
        default=30.0,
        ge=1,
        le=3600,
        description="How long a process that reads may be silent before another takes over.",
    )
    sync_max_attempts: int = Field(
        default=5, ge=1, le=100, description="Failed attempts after which a job is given up."
    )
    sync_backoff_seconds: float = Field(
        default=30.0,
        gt=0,
        description="Longest wait after the first failed attempt; each further one doubles it.",
    )
    sync_backoff_max_seconds: float = Field(
        default=3600.0, gt=0, description="Longest wait between two attempts."
    )
    sync_retention_days: int = Field(
        default=30, ge=1, le=3650, description="How long finished jobs are kept."
    )

    usage_retention_days: int = Field(
        default=30, ge=0, le=3650, description="How long records of calls are kept; 0 keeps none."
    )
    usage_totals_retention_days: int = Field(
        default=400,
        ge=31,
        le=3650,
        description="How long daily totals of calls are kept. There are none if no records are.",
    )
    usage_buffer_records: int = Field(
        default=10_000, ge=100, description="Most records of calls that wait for the database."
    )
    search_enabled: bool = Field(
        default=True,
        description="Whether tools, servers and catalog entries are held in memory for searches "
        "by words and meaning; without, `POST /api/v1/search` answers 503.",
    )
    approvals: Literal["required", "advisory"] = Field(
        default="required",
        description="What `human_approval_required` does to a tool: with `required`, people must "
        "approve each of its calls; `advisory` lets them pass.",
    )
    approval_by_requester: bool = Field(
        default=False,
        description="Whether those who may approve calls may approve their own.",
    )
    approval_wait_seconds: float = Field(
        default=300.0,
        ge=0,
        le=3600,
        description="How long a call is held while people decide about it. After that its client "
        "gets the id of the request, and fetches the result by another call.",
    )
    approval_lifetime_hours: float = Field(
        default=24.0,
        gt=0,
        le=720,
        description="How long a request for approval is open: it must be approved and executed "
        "by then.",
    )
    approval_retention_days: int = Field(
        default=90,
        ge=1,
        le=3650,
        description="How long requests for approval are kept after that, with their sealed "
        "arguments, and results that nobody fetched.",
    )
    approval_webhook_url: str | None = Field(
        default=None,
        description="Where each change of a request for approval is posted to, signed as Standard "
        "Webhooks says. Private addresses must be in `UPSTREAM_ALLOWED_NETWORKS`.",
    )
    approval_webhook_secret: SecretStr | None = Field(
        default=None,
        description="Secret of those signatures: `whsec_` and 24 to 64 bytes in base64.",
    )
    call_log: Literal["off", "errors", "calls", "all"] = Field(
        default="errors",
        description="Which gateway requests are logged, one line each: none, those that did not "
        "end well, besides these all tool calls (local mode's default), or all.",
    )
    otel_exporter_otlp_endpoint: str | None = Field(
        default=None,
        description="OTLP/HTTP collector that gets a trace of each gateway request; none, no "
        "traces.",
    )
    otel_exporter_otlp_headers: SecretStr | None = Field(
        default=None, description="Sent to the collector with each batch: `name=value,...`."
    )
    otel_service_name: str = Field(
        default="mcp-gateway-registry", description="`service.name` of the traces."
    )
    otel_resource_attributes: str = Field(
        default="", description="Further attributes of all traces: `name=value,...`."
    )
    otel_traces_sampler: Literal[
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    ] = Field(default="parentbased_always_on", description="Which requests are traced.")
    otel_traces_sampler_arg: float = Field(
        default=1.0, ge=0, le=1, description="Share that the samplers of ratios take."
    )

    admin_sees_private: bool = Field(
        default=True, description="Whether admins see other users' private servers."
    )
    admin_uses_private: bool = Field(
        default=False,
        description=(
            "Whether admins may use other users' private servers at `/mcp` and `/mcp/<server>`, "
            "with the credentials stored there; each use is audited. "
            "Needs `ADMIN_SEES_PRIVATE`."
        ),
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severity that is logged."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto",
        description="One JSON object a line, or text for people; `auto` is text on a terminal.",
    )

    @field_validator(
        "allowed_hosts",
        "allowed_origins",
        "creds_keys_readable",
        "gateway_always_visible_tools",
        "upstream_allowed_networks",
        mode="before",
    )
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("upstream_allowed_networks")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            ipaddress.ip_network(network)
        return value

    @field_validator("mongo_uri")
    @classmethod
    def _mongo_scheme(cls, value: SecretStr) -> SecretStr:
        # Not by urlsplit, whose complaints quote the address with its password.
        if not value.get_secret_value().startswith(("mongodb://", "mongodb+srv://")):
            msg = "must start with mongodb:// or mongodb+srv://"
            raise ValueError(msg)
        return value

    @field_validator("creds_key")
    @classmethod
    def _key_is_hex(cls, value: SecretStr) -> SecretStr:
        return _require_hex(value, CREDS_KEY_HEX_CHARACTERS)

    @field_validator("creds_keys_readable")
    @classmethod
    def _keys_are_hex(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        return tuple(_require_hex(key, CREDS_KEY_HEX_CHARACTERS) for key in value)

    @field_validator("creds_iv")
    @classmethod
    def _iv_is_hex(cls, value: SecretStr) -> SecretStr:
        return _require_hex(value, CREDS_IV_HEX_CHARACTERS)

    @field_validator("otel_exporter_otlp_endpoint")
    @classmethod
    def _collector_address(cls, value: str | None) -> str | None:
        if not value:
            return None
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            msg = "must be an http or https address"
            raise ValueError(msg)
        return value.rstrip("/")

    @field_validator("public_url")
    @classmethod
    def _public_url(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            # Hosts and tokens are bound to one address, which cannot be guessed from `0.0.0.0`.
            if info.data.get("registry_host", "localhost") in LOOPBACK_HOSTS:
                return None
            if info.data.get("registry_local"):
                return None  # refused below, for a reason of its own
            msg = "is required when REGISTRY_HOST is not a loopback address"
            raise ValueError(msg)
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query:
            msg = "must be an http or https address without a query"
            raise ValueError(msg)
        return value.rstrip("/")

    @model_validator(mode="after")
    def _administrators_use_what_they_see(self) -> "Settings":
        if self.admin_uses_private and not self.admin_sees_private:
            msg = "ADMIN_USES_PRIVATE: needs ADMIN_SEES_PRIVATE=true"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _tools_that_are_found_are_searched(self) -> "Settings":
        if self.gateway_tools == "search" and not self.search_enabled:
            msg = "GATEWAY_TOOLS: search needs SEARCH_ENABLED=true"
            raise ValueError(msg)
        return self

    @field_validator("approval_webhook_url")
    @classmethod
    def _approval_webhook_url(cls, value: str | None) -> str | None:
        if not value:
            return None
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
            msg = "must be an http or https address without a user"
            raise ValueError(msg)
        return value

    @field_validator("approval_webhook_secret")
    @classmethod
    def _approval_webhook_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value():
            return None
        if not is_secret(value.get_secret_value()):
            msg = f"must be {PREFIX} and 24 to 64 bytes in base64"
            raise ValueError(msg)
        return value

    @model_validator(mode="after")
    def _webhook_messages_are_signed(self) -> "Settings":
        if self.approval_webhook_url is not None and self.approval_webhook_secret is None:
            msg = "APPROVAL_WEBHOOK_URL: needs APPROVAL_WEBHOOK_SECRET"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _local_mode_stays_on_loopback(self) -> "Settings":
        if self.registry_local and self.registry_host not in LOOPBACK_HOSTS:
            msg = (
                f"REGISTRY_HOST: local mode listens on loopback only, not {self.registry_host}; "
                "use `registry serve` with real settings for that"
            )
            raise ValueError(msg)
        return self

    @property
    def base_url(self) -> str:
        """Return the address that clients use, without a trailing slash."""
        if self.public_url is not None:
            return self.public_url
        host = f"[{self.registry_host}]" if ":" in self.registry_host else self.registry_host
        return f"http://{host}:{self.registry_port}"


def _require_hex(value: SecretStr, characters: int) -> SecretStr:
    if not re.fullmatch(rf"[0-9a-fA-F]{{{characters}}}", value.get_secret_value()):
        msg = f"must be {characters} hexadecimal characters ({characters // 2} bytes)"
        raise ValueError(msg)
    return value


def load_settings(**overrides: object) -> Settings:
    """Read the settings from the environment; *overrides* win.

    Raises:
        SettingsError: Something is missing or malformed; all problems at once.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]  # values are validated by the model
    except ValidationError as exc:
        raise SettingsError([_problem(error) for error in exc.errors()]) from None


def _problem(error: object) -> str:
    assert isinstance(error, dict)  # noqa: S101 - pydantic's ErrorDetails is a TypedDict
    message = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return message
    name = str(error["loc"][0]).upper()
    if error["type"] == "missing":
        return f"{name}: is required ({Settings.model_fields[name.lower()].description})"
    return f"{name}: {message}"
