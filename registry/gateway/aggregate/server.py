"""Aggregate server: the gateway as an MCP server, for all servers or for one of another era.

Lists, handshakes and discovery are answered from memory; calls go to the server that has the tool,
prompt or resource.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import orjson
import structlog
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    SERVER_INFO_META_KEY,
)
from mcp_types.version import (
    HANDSHAKE_PROTOCOL_VERSIONS,
    LATEST_HANDSHAKE_VERSION,
    MODERN_PROTOCOL_VERSIONS,
)
from multidict import CIMultiDict

import registry
from registry.auth.identity import UserContext
from registry.core.json import JsonObject, dump_text, load_text, members
from registry.core.latency_watcher import LatencyWatcher
from registry.gateway.aggregate.bridge import ClientBridge, ClientRequest, Elsewhere
from registry.gateway.client.asks import Ask
from registry.gateway.client.connector import Connector
from registry.gateway.client.sessions import SessionOwner
from registry.gateway.edge.admission import Admission
from registry.gateway.edge.authorization import fills_forms, opens_urls
from registry.gateway.edge.client_sessions import (
    ClientContext,
    ClientSession,
    ClientSessions,
    client_name,
    usable_capabilities,
)
from registry.gateway.edge.ended_sessions import EndedSessions
from registry.gateway.edge.eras import check_modern, check_param_headers
from registry.gateway.edge.error_responses import result_body
from registry.gateway.edge.governance import CallGovernance
from registry.gateway.edge.questions import ClientQuestions
from registry.gateway.edge.recorder import Recorder
from registry.gateway.edge.requests import GatewayRequest
from registry.gateway.edge.session_states import (
    MAX_SUBSCRIPTIONS,
    MAX_URI_CHARACTERS,
    SessionStates,
)
from registry.gateway.edge.tool_search import ToolSearch, outer_call
from registry.gateway.errors import (
    INVALID_PARAMS,
    AuthorizationRequired,
    CredentialsRejected,
    InvalidParams,
    InvalidRequest,
    MethodUnknown,
    NotSubscribable,
    PromptUnknown,
    Refusal,
    ResourceUnknown,
    StateUnknown,
    UpstreamFailed,
)
from registry.gateway.notifications.completions import AuthorizationCompletions
from registry.gateway.notifications.streams import SAID, NotificationStreams
from registry.gateway.passthrough import PassThrough
from registry.gateway.ports import PeerGone, Peers
from registry.gateway.protocol import era_translation
from registry.gateway.protocol.envelope import NOTIFICATION_PREFIX, Envelope
from registry.gateway.protocol.headers import CONVERSATION_HEADER, TRACE_HEADERS
from registry.gateway.protocol.list_pages import (
    CursorError,
    list_result,
    marked,
    page_members,
    page_result,
)
from registry.gateway.protocol.messages import with_arguments
from registry.gateway.transport.call_watch import CallWatch
from registry.gateway.transport.early_stream import STREAM_HEADERS
from registry.gateway.transport.forwarder import REPEATABLE
from registry.gateway.transport.replay import worker_of
from registry.gateway.values import Credentials, Route, is_unread, may_tell_of_resources
from registry.gateway.view.catalogue import CatalogueEntry
from registry.gateway.view.offering import (
    PAGE_KINDS,
    Offering,
    SingleOffering,
    nothing_of,
    with_public_links,
)
from registry.gateway.view.tool_search import SearchOffering, is_meta_tool, whole_of
from registry.servers.values import Era
from registry.upstream.messages import notification_text

log = structlog.get_logger()

CACHED_MS = 30_000
MODERN_VERSIONS = list(MODERN_PROTOCOL_VERSIONS)
NO_TASKS = "Tasks are not supported at this path; send tools/call without params.task."
ROOTS_CHANGED = "notifications/roots/list_changed"
EMPTY: tuple[tuple[bytes, bytes], ...] = ((b"content-length", b"0"),)


class AggregateServer:
    """The MCP server at each path where no single server is passed through.

    Args:
        admission: Decides which servers a caller may use.
        passthrough: Forwards requests to servers that speak the client's era.
        bridge: Runs conversations with servers.
        sessions: Creates and reads the gateway's own session ids.
        states: What clients set in a session after its beginning.
        notification_streams: Serves the notification streams.
        peers: The other workers.
        ended_sessions: Reports sessions that clients end to other workers and replicas.
        completions: Tells sessions that their user has authorised the registry at a server.
        questions: Takes other workers' messages about questions to clients.
        governance: Checks calls of tools.
        recorder: Notified when a request goes upstream.
        latency_watcher: Sets the latency thresholds of waits.
        tool_search: Answers the tools that find others.
    """

    def __init__(  # noqa: PLR0913 - collaborators
        self,
        admission: Admission,
        passthrough: PassThrough,
        bridge: ClientBridge,
        connector: Connector,
        sessions: ClientSessions,
        states: SessionStates,
        notification_streams: NotificationStreams,
        peers: Peers,
        ended_sessions: EndedSessions,
        *,
        completions: AuthorizationCompletions,
        questions: ClientQuestions,
        governance: CallGovernance,
        recorder: Recorder,
        latency_watcher: LatencyWatcher,
        tool_search: ToolSearch,
    ) -> None:
        self._tool_search = tool_search
        self._bridge = bridge
        self._latency_watcher = latency_watcher
        self._connector = connector
        self._sessions = sessions
        self._states = states
        self._notification_streams = notification_streams
        self._peers = peers
        self._admission = admission
        self._passthrough = passthrough
        self._ended_sessions = ended_sessions
        self._completions = completions
        self._questions = questions
        self._governance = governance
        self._recorder = recorder
        peers.listen(self.receive)
        ended_sessions.listen(self.session_ended)

    async def post(
        self,
        exchange: GatewayRequest,
        envelope: Envelope,
        user: UserContext,
        offering: Offering,
    ) -> None:
        """Answer one message.

        Raises:
            Refusal: The answer is an error.
            ClientGone: The client disconnected.
        """
        if exchange.is_modern:
            if not exchange.is_wrapped:
                check_modern(envelope, exchange.headers)
            caller = _modern_caller(user, envelope.params)
        else:
            caller = self._legacy_caller(exchange, envelope, user, offering)
            self._admission.require_client(caller.info.get("name"))
        if not envelope.is_request:
            await self._accept(exchange, envelope, caller)
            return
        try:
            await self._answer(ClientRequest(exchange, envelope, caller, offering))
        except Elsewhere as elsewhere:
            raw = self._governance.handed_on(exchange, envelope)
            if exchange.is_wrapped:
                raw = outer_call(raw)
            if not await self._forwarded(exchange, elsewhere.worker, raw):
                raise StateUnknown from None
        except AuthorizationRequired as required:
            if caller.session is not None and exchange.opens_urls:
                self._completions.follow(caller.session.nonce, user.user_id, required)
            raise

    async def get(self, exchange: GatewayRequest, user: UserContext, offering: Offering) -> None:
        """Open the notification stream of a session."""
        session = self._session(exchange, user, offering)
        caller = ClientContext(
            user=user,
            era=Era.LEGACY,
            capabilities=session.capabilities if session else {},
            info=session.info if session else {},
            session=session,
        )
        last_event_id = exchange.headers.get("last-event-id")
        if (
            session is None
            or last_event_id is None
            or not await self._replayed(exchange, session, last_event_id)
        ):
            await self._notification_streams.stream(exchange, caller, offering)

    async def _replayed(
        self, exchange: GatewayRequest, session: ClientSession, last_event_id: str
    ) -> bool:
        """Resume an answer after an event; return whether it is stored in any worker."""
        worker, client = worker_of(last_event_id), exchange.client
        if worker is not None and worker != self._peers.own:
            return await self._forwarded(exchange, worker, b"")
        found = self._bridge.replays.find(last_event_id, session.nonce)
        if found is None:
            return False
        replay, number = found
        await client.start(200, list(STREAM_HEADERS), is_event_stream=True)
        with CallWatch(self._latency_watcher, client.receive, None):
            while events := await replay.after(number):
                number += len(events)
                body = b"".join(events)
                await client.send({"type": "http.response.body", "body": body, "more_body": True})
        await client.send({"type": "http.response.body", "body": b""})
        return True

    async def _forwarded(
        self, exchange: GatewayRequest, worker: str, raw: bytes | bytearray
    ) -> bool:
        """Have another worker answer the request; return whether it does."""
        if exchange.is_relayed:
            return False
        scope, client = exchange.scope, exchange.client
        with suppress(PeerGone):
            await self._peers.forward(worker, scope, raw, client.receive, client.pass_on)
            return True
        return False

    async def delete(
        self, exchange: GatewayRequest, user: UserContext, offering: Offering
    ) -> None:
        """End a session in all workers, with everything that belongs to it."""
        session = self._session(exchange, user, offering)
        if session is not None:
            await self._end(session)
        await exchange.answer_empty(200, list(EMPTY))

    async def end(self, user: UserContext, scope_id: str, sealed: str) -> None:
        """End a session on behalf of a client that cannot do so.

        Raises:
            SessionUnknown: It is not a session of this user with this server.
        """
        await self._end(self._sessions.resume(user, scope_id, sealed))

    async def _end(self, session: ClientSession) -> None:
        name = self._sessions.end(session)
        self._ended(session.nonce)
        await self._ended_sessions.report(name, session.nonce)

    def session_ended(self, name: str, nonce: str | None) -> None:
        """Apply the `end` of another worker or replica.

        Args:
            name: The name of the session's id.
            nonce: The nonce of the session; None if one server is passed through at the path.
        """
        self._sessions.end_named(name)
        if nonce is not None:
            self._ended(nonce)

    def _ended(self, nonce: str) -> None:
        self._bridge.end_of(nonce)
        self._states.forget(nonce)
        self._notification_streams.session_ended(nonce)
        self._connector.sessions.end_of(nonce)

    async def receive(self, message: bytes) -> bytes:
        """Handle another worker's message, and reply."""
        received: dict[str, Any] = orjson.loads(message)
        match received["kind"]:
            case "answer" | "claim" | "cancel":
                return self._bridge.receive(received)
            case "question" | "question_cancelled":
                self._questions.receive(received)
            case "ended":
                self.session_ended(received["name"], received["session"])
            case "standing":
                self._notification_streams.superseded(received["session"], received["opened_at"])
                return orjson.dumps(self._states.known(received["session"]))
            case "state":
                self._states.apply(received["session"], received["change"])
                await self._notification_streams.session_changed(received["session"])
            case "upstream_session":
                return self._connector.sessions.receive(received)
            case "say":
                is_said = self._notification_streams.say_here(
                    received["session"], received["raw"].encode()
                )
                return SAID if is_said else b""
            case "roots":
                await self._roots_changed(received["session"])
            case "states":
                return orjson.dumps(self._states.known(received["session"]))
            case _:
                log.warning("worker_message_unknown")
        return b""

    async def _answer(self, request: ClientRequest) -> None:
        envelope, offering = request.envelope, request.offering
        method = envelope.method
        match method:
            case "tools/call" if is_meta_tool(offering, envelope.params.get("name")):
                await self._find(request)
            case "tools/call":
                called = await self._tool(request)
                if called is not None:
                    await self._call(*called, "name")
            case "prompts/get":
                name = _named(envelope, "name")
                owned_prompt = offering.prompt(name)
                if owned_prompt is None:
                    self._note_hidden(request, name)
                    raise PromptUnknown(name)
                await self._call(request, owned_prompt, "name")
            case "resources/read":
                owned = self._resource(request)
                await self._call(request, owned, "uri")
            case "completion/complete":
                await self._complete(request)
            case _ if method in PAGE_KINDS:
                await self._list(request)
            case _ if request.exchange.is_modern:
                await self._modern_only(request)
            case _:
                await self._legacy_only(request)

    async def _legacy_only(self, request: ClientRequest) -> None:
        exchange, envelope, caller = request.exchange, request.envelope, request.caller
        match envelope.method:
            case "initialize":
                await self._initialize(request)
            case "ping":
                await self._result(exchange, {})
            case "logging/setLevel":
                level = envelope.params.get("level")
                if level not in era_translation.LOG_LEVELS:
                    raise InvalidParams("Unknown log level.")
                await self._change(caller, {"level": level})
                await self._result(exchange, {})
            case "resources/subscribe" | "resources/unsubscribe":
                owned = self._resource(request)
                begins = envelope.method == "resources/subscribe"
                if begins and not may_tell_of_resources(owned.route):
                    raise NotSubscribable(owned.route.server_name)
                if begins:
                    self._check_room(caller, envelope.params["uri"])
                    self._admission.note_use(exchange, caller.user, owned.route)
                kind = "subscribed" if begins else "unsubscribed"
                await self._change(caller, {kind: envelope.params["uri"]})
                await self._result(exchange, {})
            case _:
                await self._unknown(request)

    def _check_room(self, caller: ClientContext, uri: str) -> None:
        if len(uri) > MAX_URI_CHARACTERS:
            raise InvalidParams(f"A URI may have at most {MAX_URI_CHARACTERS} characters here.")
        if caller.session is not None and self._states.is_full(caller.session.nonce):
            raise InvalidParams(f"A session has at most {MAX_SUBSCRIPTIONS} subscriptions.")

    async def _modern_only(self, request: ClientRequest) -> None:
        match request.envelope.method:
            case "server/discover":
                await self._result(request.exchange, _discovery(request.offering))
            case "subscriptions/listen":
                await self._notification_streams.listen(
                    request.exchange,
                    request.caller,
                    whole_of(request.offering),
                    request.envelope,
                )
            case "ping" | "initialize" | "logging/setLevel":
                raise MethodUnknown
            case _:
                await self._unknown(request)

    async def _unknown(self, request: ClientRequest) -> None:
        """Forward a request to the one server at the path, which may know its method."""
        if request.offering.only is None:
            raise MethodUnknown
        owned = CatalogueEntry(request.offering.only, "")
        await self._call(request, owned, None)

    async def _initialize(self, request: ClientRequest) -> None:
        wanted = request.envelope.params.get("protocolVersion")
        if not isinstance(wanted, str):
            raise InvalidParams("initialize needs the member params.protocolVersion, a string.")
        version = wanted if wanted in HANDSHAKE_PROTOCOL_VERSIONS else LATEST_HANDSHAKE_VERSION
        session = self._sessions.begin(
            request.caller.user, request.offering.scope_id, version, request.envelope.params
        )
        result: dict[str, Any] = {
            "protocolVersion": version,
            "capabilities": dict(request.offering.capabilities),
            "serverInfo": _server_info(request.offering),
        }
        if request.offering.instructions:
            result["instructions"] = request.offering.instructions
        await self._result(request.exchange, result, ((b"mcp-session-id", session.id.encode()),))

    async def _list(self, request: ClientRequest) -> None:
        exchange, offering = request.exchange, request.offering
        kind, cursor = PAGE_KINDS[request.envelope.method], request.envelope.params.get("cursor")
        only = offering.only
        unread = only is not None and is_unread(only)
        try:
            if kind == "tools" and only is not None and isinstance(offering, SingleOffering):
                # Joined once: the lists of APIs are megabytes.
                answer = list_result(
                    page_members(only.pages, cursor),
                    exchange.request_id,
                    is_modern=exchange.is_modern,
                    is_unread=unread,
                )
            else:
                page = offering.page(kind, cursor)
                if page is None:
                    if only is None or await self._admission.is_authorized(
                        only, request.caller.user
                    ):
                        await self._unknown(request)
                        return
                    # What nobody has authorised the registry to read yet is an empty list, no
                    # error.
                    page = nothing_of(kind)
                answer = page_result(
                    page, exchange.request_id, is_modern=exchange.is_modern, is_unread=unread
                )
        except CursorError:
            raise InvalidParams("The cursor is invalid: it was not issued here.") from None
        if exchange.list_mark is not None:
            answer = marked(answer, kind, exchange.list_mark)
        await exchange.answer(200, answer)

    async def _find(self, request: ClientRequest) -> None:
        """Answer a tool that finds others; what it finds is all that it says of them."""
        exchange, envelope, offering = request.exchange, request.envelope, request.offering
        assert isinstance(offering, SearchOffering)  # noqa: S101 - only it has such tools
        result = await self._tool_search.result(
            exchange, envelope, offering, envelope.params["name"]
        )
        request_id = orjson.dumps(exchange.request_id)
        await exchange.answer(200, b'{"jsonrpc":"2.0","id":%s,"result":%s}' % (request_id, result))

    async def _tool(self, request: ClientRequest) -> tuple[ClientRequest, CatalogueEntry] | None:
        """Return a call that may be made, and its tool; None if it has been answered."""
        exchange, envelope, offering = request.exchange, request.envelope, request.offering
        name = _named(envelope, "name")
        owned = offering.tool(name)
        if owned is None or owned.tool is None:
            self._note_hidden(request, name)
            blocked = offering.blocked(name)
            raise self._admission.unknown_tool(exchange, name, blocked)
        if isinstance(offering, SearchOffering):
            exchange.target = offering.public_name(name)
        if not exchange.is_modern and "task" in envelope.params:
            # The client could never fetch the task: tasks/get is not supported here.
            raise InvalidParams(NO_TASKS)
        preset, mirrored = owned.preset, owned.tool.param_header_schema
        if preset is not None:
            # From here on, the call is what the server will get.
            envelope = with_arguments(envelope, preset.arguments)
            mirrored = preset.param_header_schema
            exchange.preset = preset.text
            request = replace(request, envelope=envelope)
        try:
            arguments, is_answered = await self._governance.admit(
                exchange, envelope, request.caller.user, owned.route, owned.tool
            )
        except Refusal:
            # It is recorded with the server that the call was for.
            exchange.served_by(owned.route)
            raise
        if is_answered:
            return None
        # Who calls it by `call_tool` cannot send headers for it.
        if exchange.is_modern and mirrored is not None and not exchange.is_wrapped:
            check_param_headers(mirrored, arguments, exchange.headers)
        return request, owned

    def _note_hidden(self, request: ClientRequest, name: str) -> None:
        if request.offering.only is None and request.exchange.user is not None:
            self._admission.note_hidden(request.exchange, request.exchange.user, name)

    def _resource(self, request: ClientRequest) -> CatalogueEntry:
        uri = _named(request.envelope, "uri")
        owned = request.offering.resource(uri)
        if owned is None:
            code = (
                INVALID_PARAMS
                if request.exchange.is_modern
                else era_translation.RESOURCE_NOT_FOUND
            )
            raise ResourceUnknown(uri, code)
        return owned

    async def _complete(self, request: ClientRequest) -> None:
        envelope, offering = request.envelope, request.offering
        ref = members(envelope.params.get("ref"))
        owned, key = None, "name"
        match ref.get("type"), ref.get("name"), ref.get("uri"):
            case "ref/prompt", str(name), _:
                owned = offering.prompt(name)
            case "ref/resource", _, str(uri):
                owned, key = offering.template(uri) or offering.resource(uri), "uri"
            case _:
                pass
        if owned is None:
            raise InvalidParams("Unknown completion reference.")
        params = {**envelope.params, "ref": {**ref, key: owned.key}}
        await self._dispatch(request, owned, params)

    async def _call(
        self, request: ClientRequest, owned: CatalogueEntry, named_by: str | None
    ) -> None:
        exchange, envelope, caller = request.exchange, request.envelope, request.caller
        is_read_here = named_by == "uri" and envelope.params["uri"] != owned.key
        # Headers that mirror preset arguments are not the client's to send.
        is_read_here = is_read_here or (owned.preset is not None and owned.preset.is_mirrored)
        if exchange.is_wrapped and owned.tool is not None:
            is_read_here = is_read_here or owned.tool.param_header_schema is not None
        if caller.era is Era.MODERN and Era.MODERN in owned.route.eras and not is_read_here:
            self._admission.note_use(exchange, caller.user, owned.route)
            exchange.served_by(owned.route)
            exchange.client.edit = with_public_links(request.offering, owned.route)
            await self._passthrough.forward_as(exchange, caller.user, owned, envelope)
            return
        params = dict(envelope.params)
        if named_by is not None:
            params[named_by] = owned.key
        await self._dispatch(request, owned, params)

    async def _dispatch(
        self, request: ClientRequest, owned: CatalogueEntry, params: JsonObject
    ) -> None:
        exchange, envelope, caller = request.exchange, request.envelope, request.caller
        route = owned.route
        self._admission.note_use(exchange, caller.user, route)
        exchange.served_by(route)
        sent = await self._admission.credentials(route, caller.user)
        self._recorder.forwarding(exchange)
        is_stateless = caller.era in route.eras and caller.era is Era.MODERN
        if Era.LEGACY not in route.eras:
            is_stateless = True
        if caller.era is Era.MODERN and not is_stateless and "requestState" not in params:
            params = era_translation.legacy_params(params)
        level = caller.level
        if level is None and caller.session is not None:
            level = self._states.level(caller.session.nonce)
        if level is None and caller.era is Era.LEGACY and is_stateless:
            # Servers of the handshake's era log unasked; servers of the stateless era do not.
            level = "info"
        ask = Ask(
            route=route,
            era=caller.era,
            method=envelope.method,
            params=params if envelope.is_canonical else _exactly(envelope, params),
            is_exact=envelope.is_canonical,
            credentials=_on_the_way(exchange, sent, route),
            passed_on=_traced(exchange),
            capabilities=caller.capabilities,
            info=caller.info,
            level=level if is_stateless or "logging" in route.capabilities else None,
            tool=owned.tool,
            may_repeat=exchange.may_repeat or envelope.method in REPEATABLE,
            user_id=caller.user.user_id if route.is_user_level else None,
            owner=self._owner(exchange, caller, route),
        )
        is_renewed = False
        while True:
            try:
                await self._bridge.ask(request, ask)
            except CredentialsRejected as rejected:
                if exchange.client.has_started:
                    raise
                sent = await self._admission.other_credentials(
                    route, caller.user, sent, rejected, is_renewed=is_renewed
                )
                is_renewed = True
                ask.credentials = _on_the_way(exchange, sent, route)
            else:
                return

    def _owner(
        self, exchange: GatewayRequest, caller: ClientContext, route: Route
    ) -> SessionOwner:
        session = caller.session
        return SessionOwner(
            caller.user.principal,
            None if session is None else session.nonce,
            exchange.headers.get(CONVERSATION_HEADER),
            None if route.oauth is None else caller.user,
        )

    async def _accept(
        self, exchange: GatewayRequest, envelope: Envelope, caller: ClientContext
    ) -> None:
        """Handle a message without a response: a notification, or a response to a request."""
        if not envelope.method:
            await self._deliver(envelope, caller)
        elif envelope.method == "notifications/cancelled" and caller.session is not None:
            request_id = envelope.params.get("requestId")
            if isinstance(request_id, str | int) and not self._bridge.cancel(
                caller.session, request_id
            ):
                message = {"kind": "cancel", "session": caller.session.nonce, "id": request_id}
                await self._peers.broadcast(orjson.dumps(message))
        elif envelope.method == ROOTS_CHANGED and caller.session is not None:
            await self._roots_changed(caller.session.nonce)
            message = {"kind": "roots", "session": caller.session.nonce}
            await self._peers.broadcast(orjson.dumps(message))
        elif not envelope.method.startswith(NOTIFICATION_PREFIX):
            raise InvalidRequest("The message is neither request nor notification.")
        await exchange.answer_empty(202, list(EMPTY))

    async def _roots_changed(self, nonce: str) -> None:
        """Notify servers that a client's roots changed, in the client's sessions."""
        for session in self._connector.sessions.of_client(nonce):
            with suppress(Refusal):
                await self._connector.post_in(session, notification_text(ROOTS_CHANGED))

    async def _deliver(self, envelope: Envelope, caller: ClientContext) -> None:
        """Deliver a client's response to the server, or to the call that waits for it."""
        address = self._bridge.answer_address(caller.user, envelope.body.get("id"))
        if address[0] == "worker":
            _, worker, token, key = address
            await self._bridge.deliver(worker, token, key, envelope.body)
            return
        _, worker, token, asked_at, slug, server_id, request_id, *reply_address = address
        route = self._admission.route_of(caller.user, slug, server_id)
        body = load_text(envelope.raw)
        body["id"] = request_id
        credentials = (await self._admission.credentials(route, caller.user)).headers
        # Last, because an answer that could not be delivered must not count. An answer that no
        # call waits for any more is no error of the client: an error response would end its
        # session.
        if not await self._bridge.claim(worker, token, asked_at):
            return
        try:
            await self._connector.reply(route, credentials, reply_address, dump_text(body))
        except UpstreamFailed as failure:
            log.info("gateway_client_response_rejected", server=route.slug, reason=failure.message)

    async def _change(self, caller: ClientContext, change: JsonObject) -> None:
        """Store a change of a session's state in all workers: any may serve its next request."""
        if caller.session is None:
            raise InvalidRequest("This method needs a session; send initialize first.")
        nonce = caller.session.nonce
        self._states.apply(nonce, change)
        if "level" not in change:
            await self._notification_streams.session_changed(nonce)
        message = {"kind": "state", "session": nonce, "change": change}
        await self._peers.broadcast(orjson.dumps(message))

    async def _result(
        self,
        exchange: GatewayRequest,
        result: Mapping[str, Any],
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        assert exchange.request_id is not None  # noqa: S101 - only requests are answered
        await exchange.answer(200, result_body(result, exchange.request_id), headers)

    def _legacy_caller(
        self, exchange: GatewayRequest, envelope: Envelope, user: UserContext, offering: Offering
    ) -> ClientContext:
        session = None
        if envelope.method != "initialize":
            session = self._session(exchange, user, offering)
        if session is not None:
            exchange.opens_urls = opens_urls(session.capabilities)
            exchange.fills_forms = fills_forms(session.capabilities)
            exchange.client_name = client_name(session.info)
        return ClientContext(
            user=user,
            era=Era.LEGACY,
            capabilities=session.capabilities if session else {},
            info=session.info if session and session.info else {"name": "unknown", "version": "0"},
            session=session,
        )

    def _session(
        self, exchange: GatewayRequest, user: UserContext, offering: Offering
    ) -> ClientSession | None:
        sealed = exchange.headers.get("mcp-session-id")
        if sealed is None:
            return None
        return self._sessions.resume(user, offering.scope_id, sealed)


def _modern_caller(user: UserContext, params: Mapping[str, Any]) -> ClientContext:
    meta = members(params.get("_meta"))
    return ClientContext(
        user=user,
        era=Era.MODERN,
        capabilities=usable_capabilities(meta.get(CLIENT_CAPABILITIES_META_KEY)),
        info=members(meta.get(CLIENT_INFO_META_KEY)) or {"name": "unknown", "version": "0"},
        level=era_translation.asked_level(meta),
    )


def _discovery(offering: Offering) -> dict[str, Any]:
    result: dict[str, Any] = {
        "resultType": "complete",
        "supportedVersions": MODERN_VERSIONS,
        "capabilities": dict(offering.capabilities),
        "ttlMs": CACHED_MS,
        "cacheScope": "private",
        "_meta": {SERVER_INFO_META_KEY: _server_info(offering)},
    }
    if offering.instructions:
        result["instructions"] = offering.instructions
    return result


def _server_info(offering: Offering) -> dict[str, str]:
    name = "mcp-gateway-registry" if offering.only is None else offering.only.server_name
    return {"name": name, "title": offering.title, "version": registry.__version__}


def _named(envelope: Envelope, member: str) -> str:
    value = envelope.params.get(member)
    if type(value) is not str:
        raise InvalidParams(f"{envelope.method} needs the member params.{member}, a string.")
    return value


def _exactly(envelope: Envelope, params: JsonObject) -> JsonObject:
    """Return *params* with all unchanged members as the other parser reads them."""
    original = members(load_text(envelope.raw).get("params"))
    return {
        name: original[name] if value is envelope.params.get(name) else value
        for name, value in params.items()
    }


def _on_the_way(exchange: GatewayRequest, sent: Credentials, route: Route) -> CIMultiDict[str]:
    """Return the headers for a request to a server, which name the gateways on the way."""
    stored = sent.headers if route.per_user else route.headers
    exchange.client.sent = (stored, route)
    via = exchange.headers.get("via")
    if via is None:
        return stored
    # The time limit covers everything that this request sends, including a handshake.
    headers = stored.copy()
    headers["Via"] = ", ".join(filter(None, (via, headers.get("Via"))))
    return headers


def _traced(exchange: GatewayRequest) -> dict[str, str]:
    return {name: value for name in TRACE_HEADERS if (value := exchange.headers.get(name))}
