"""Prometheus metrics, one registry per application so that tests do not share counts."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from registry.core.clock import Clock
from registry.core.series import Counts, Timings

GATEWAY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Seconds. A pass-through call takes about a millisecond, a slow tool up to a minute."""


PHASE_BUCKETS = (0.0001, 0.00025, 0.0005, *GATEWAY_BUCKETS)
"""Seconds. What the gateway itself does within a call takes tenths of a millisecond."""


class Metrics:
    """Every metric of the application. docs/operations.md lists them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.http_requests = Histogram(
            "http_request_duration_seconds",
            "Time to answer a REST request.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self.server_operations = Counter(
            "mcp_server_operations",
            "Operations on registered servers.",
            ("operation", "status"),
            registry=self.registry,
        )
        self.discovery_duration = Histogram(
            "mcp_discovery_duration_seconds",
            "Time to read an upstream's tools.",
            ("outcome",),
            registry=self.registry,
            buckets=GATEWAY_BUCKETS,
        )
        self.sync_runs = Counter(
            "mcp_sync_runs",
            "Attempts to synchronise a server, by trigger and outcome.",
            ("trigger", "outcome"),
            registry=self.registry,
        )
        self.sync_duration = Histogram(
            "mcp_sync_run_duration_seconds",
            "Time of such an attempt, the upstream's included.",
            ("outcome",),
            registry=self.registry,
            buckets=GATEWAY_BUCKETS,
        )
        self.sync_jobs_open = Gauge(
            "mcp_sync_jobs_open",
            "Jobs that are not finished, by state.",
            ("state",),
            registry=self.registry,
        )
        self.gateway_requests = Timings(
            "mcp_gateway_request_duration_seconds",
            "Time to the end of the answer of a gateway request.",
            ("server", "method", "outcome"),
            bounds=GATEWAY_BUCKETS,
        )
        self.registry.register(self.gateway_requests)
        self.gateway_phases = Timings(
            "mcp_gateway_phase_duration_seconds",
            "Time of a forwarded gateway request by what it was spent on.",
            ("server", "phase"),
            bounds=PHASE_BUCKETS,
        )
        self.registry.register(self.gateway_phases)
        self.gateway_tool_calls = Counts(
            "mcp_gateway_tool_calls",
            "Calls of tools by how they ended, in their answers too.",
            ("server", "tool", "outcome"),
        )
        self.registry.register(self.gateway_tool_calls)
        self._add_governance()
        self.usage_records_written = Counter(
            "usage_records_written",
            "Records of calls that were written.",
            registry=self.registry,
        )
        self.budget_notices = Counter(
            "budget_notices",
            "Budgets of which so much was spent, once each month.",
            ("percent",),
            registry=self.registry,
        )
        self.usage_records_dropped = Counter(
            "usage_records_dropped",
            "Records of calls that could not be written.",
            ("reason",),
            registry=self.registry,
        )
        self.usage_records_pending = Gauge(
            "usage_records_pending",
            "Records of calls that are not written yet.",
            registry=self.registry,
        )
        self.loop_lag = Histogram(
            "event_loop_lag_seconds",
            "How late the event loop was, sampled twice a second.",
            registry=self.registry,
            buckets=GATEWAY_BUCKETS,
        )
        self.gateway_in_flight = Gauge(
            "mcp_gateway_requests_in_flight",
            "Gateway requests being answered now.",
            registry=self.registry,
        )
        self.gateway_breaker_state = Gauge(
            "mcp_gateway_breaker_state",
            "Circuit breakers of servers that are not closed, by state.",
            ("server", "state"),
            registry=self.registry,
        )
        self.gateway_breaker_transitions = Counter(
            "mcp_gateway_breaker_transitions",
            "State changes of circuit breakers, by the new state.",
            ("server", "state"),
            registry=self.registry,
        )
        self.gateway_queue_refusals = Counter(
            "mcp_gateway_queue_refusals",
            "Calls refused because the queue of their server was full.",
            ("server",),
            registry=self.registry,
        )
        self.gateway_retries = Counter(
            "mcp_gateway_retries",
            "Idempotent requests that were sent again after a connection was lost.",
            ("server",),
            registry=self.registry,
        )
        self.gateway_streams = Gauge(
            "mcp_gateway_streams",
            "Streams open to clients that the gateway itself is the server of.",
            registry=self.registry,
        )
        self.gateway_notification_feeds = Gauge(
            "mcp_gateway_notification_feeds",
            "Servers whose notifications are read, or tried to be, outside of calls.",
            registry=self.registry,
        )
        self.upstream_list_changes = Counter(
            "mcp_gateway_upstream_list_changes",
            "Notifications of servers that one of their lists changed.",
            registry=self.registry,
        )
        self.connection_states = Gauge(
            "mcp_connections",
            "Connections to servers, and of users to servers, by state.",
            ("level", "state"),
            registry=self.registry,
        )
        self.connection_writes = Counter(
            "mcp_connection_writes",
            "Writes of connection results to the database.",
            ("event",),
            registry=self.registry,
        )
        self.connection_writes_coalesced = Counter(
            "mcp_connection_writes_coalesced",
            "Connection results that were written together with later ones.",
            registry=self.registry,
        )
        self.connection_writes_dropped = Counter(
            "mcp_connection_writes_dropped",
            "Connection results that were not written.",
            ("reason",),
            registry=self.registry,
        )
        self.snapshot_age = Gauge(
            "mcp_gateway_snapshot_age_seconds",
            "Time since the snapshot last agreed with the database.",
            registry=self.registry,
        )
        self.policies_unreadable = Gauge(
            "mcp_gateway_policies_unreadable",
            "Stored access policies that cannot be read; what they may apply to is refused.",
            registry=self.registry,
        )
        self.snapshot_reloads = Counter(
            "mcp_gateway_snapshot_reloads",
            "Reloads of the snapshot, in full or of one server.",
            ("kind",),
            registry=self.registry,
        )
        self.database_commands = Histogram(
            "mongodb_command_duration_seconds",
            "Time of commands sent to MongoDB.",
            ("command", "outcome"),
            registry=self.registry,
            buckets=GATEWAY_BUCKETS,
        )
        self.database_connections = Gauge(
            "mongodb_pool_connections",
            "Connections to MongoDB by state.",
            ("state",),
            registry=self.registry,
        )
        self.database_connection_failures = Counter(
            "mongodb_connection_failures",
            "Connections to MongoDB that could not be made or were lost.",
            registry=self.registry,
        )
        self.audit_records_dropped = Counter(
            "audit_records_dropped",
            "Records of refusals that could not be written.",
            registry=self.registry,
        )
        self.oauth_flows = Counter(
            "mcp_oauth_flows",
            "Steps of authorizations of the registry at servers, by outcome.",
            ("outcome",),
            registry=self.registry,
        )
        self.oauth_refreshes = Counter(
            "mcp_oauth_refreshes",
            "Renewals of users' access tokens for servers, by outcome.",
            ("outcome",),
            registry=self.registry,
        )
        self.token_operations = Counter(
            "token_operations",
            "Operations on stored and issued tokens.",
            ("operation", "outcome"),
            registry=self.registry,
        )
        self.tokens_active = Gauge(
            "tokens_active",
            "Stored tokens that have not expired.",
            ("type",),
            registry=self.registry,
        )
        self.tokens_active_users = Gauge(
            "tokens_active_users",
            "Users with a stored token that has not expired.",
            registry=self.registry,
        )
        self.tokens_expired = Gauge(
            "tokens_expired",
            "Stored tokens past their expiry that the database has not removed yet.",
            registry=self.registry,
        )
        self.token_verifications = Counts(
            "auth_token_verifications", "Bearer tokens checked.", ("outcome",)
        )
        self.registry.register(self.token_verifications)

        self._add_search()

    def _add_embedding(self) -> None:
        self.embedding_texts = Counter(
            "search_embedding_texts",
            "Texts that the embedding model made vectors of.",
            ("kind",),
            registry=self.registry,
        )
        self.embedding_failures = Counter(
            "search_embedding_failures",
            "Failures of the embedding model; search goes on by words.",
            ("reason",),
            registry=self.registry,
        )
        self.embedding_model_up = Gauge(
            "search_embedding_model_up",
            "Processes that reach the embedding model.",
            registry=self.registry,
        )
        self.embeddings_pending = Gauge(
            "search_embeddings_pending",
            "Texts whose vectors are not there yet, of what this process has indexed.",
            registry=self.registry,
        )

    def _add_catalog(self) -> None:
        self.catalog_servers = Gauge(
            "catalog_servers",
            "Servers of the catalog.",
            ("kind",),
            registry=self.registry,
        )
        self.catalog_jobs = Counter(
            "catalog_jobs",
            "Attempts of jobs of the catalog.",
            ("task", "outcome"),
            registry=self.registry,
        )
        self.catalog_import_entries = Counter(
            "catalog_import_entries",
            "Entries that imports read, by what became of them.",
            ("outcome",),
            registry=self.registry,
        )
        self.catalog_links_changed = Counter(
            "catalog_links_changed",
            "Registered servers that followed a change of their server of the catalog.",
            registry=self.registry,
        )

        self.catalog_left_out = Counter(
            "catalog_left_out",
            "Versions of servers, or parts of them, that fit no `server.json` and are not served.",
            ("extent",),
            registry=self.registry,
        )

    def _add_search(self) -> None:
        self.search_durations = Histogram(
            "search_duration_seconds",
            "Time of a search, with the embedding of its query.",
            ("via", "mode"),
            registry=self.registry,
            buckets=GATEWAY_BUCKETS,
        )
        self.search_documents = Gauge(
            "search_documents",
            "Documents in the search index of the process.",
            ("kind",),
            registry=self.registry,
        )
        self.search_vectors = Gauge(
            "search_vectors",
            "Documents in the search index of the process that have a vector.",
            registry=self.registry,
        )
        self._add_embedding()
        self._add_catalog()

    def _add_governance(self) -> None:
        self.limit_leases = Counts(
            "mcp_limit_leases", "Leases of quota of limits, by whether they came.", ("outcome",)
        )
        self.registry.register(self.limit_leases)
        self.limit_calls_uncounted = Counter(
            "mcp_limit_calls_uncounted",
            "Calls that passed a limit uncounted, because the database was away.",
            registry=self.registry,
        )
        self.gateway_mismatches = Counts(
            "mcp_gateway_mismatches",
            "Arguments and results that did not match the tool's definition.",
            ("server", "part", "action"),
        )
        self.registry.register(self.gateway_mismatches)

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


INTERVAL_SECONDS = 0.5


async def watch_loop(
    clock: Clock, lag: Histogram, *, interval_seconds: float = INTERVAL_SECONDS
) -> None:
    """Observe, forever, how much longer than requested a sleep takes."""
    while True:
        before = clock.monotonic()
        await clock.sleep(interval_seconds)
        lag.observe(max(clock.monotonic() - before - interval_seconds, 0))
