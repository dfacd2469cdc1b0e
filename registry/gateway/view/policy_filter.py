"""Policy-filtered routes: the tools of a route that policies leave to each caller.

A route without policies stays as it is and costs nothing. For any other route a caller gets a
copy with fewer tools, and everything above (lists, calls, the aggregate server) works on the copy:
a tool that is not in it can be neither listed nor called. Callers with the same refused tools
share one copy, and memory for copies is bounded over all routes together.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import count
from types import MappingProxyType
from typing import TypeAlias

from packages.models.states import Effect
from registry.access.policies.decisions import PolicyIndex, ToolRule, decide, rules_of
from registry.access.policies.values import Policy, ToolFacts
from registry.auth.identity import UserContext
from registry.gateway.protocol.list_pages import build_pages
from registry.gateway.values import Route, ToolEntry

REMEMBERED_TOOLS = 200_000
"""Maximum number of tools in all cached copies of routes, about 150 bytes each."""

REMEMBERED_CALLERS = 20_000
"""Maximum number of cached callers over all routes, about 200 bytes each."""

ROUTE_COST = 32
"""What a cached route costs besides its tools."""

ROUTES_AT_A_TIME = 20
"""Routes that are processed before other tasks get a turn."""

Key: TypeAlias = tuple[object, ...]


class CallerRoutes:
    """Cache of the routes made for callers; it is cleared when it holds too many."""

    def __init__(self) -> None:
        self._by_caller: dict[Key, Route] = {}
        self._by_refused: dict[tuple[int, int], Route] = {}
        self._cost = 0

    def of(self, caller: Key) -> Route | None:
        """Return the cached route of a caller, if there is one."""
        return self._by_caller.get(caller)

    def shared(self, serial: int, refused: int) -> Route | None:
        """Return the cached route for callers with the same refused tools, if there is one."""
        return self._by_refused.get((serial, refused))

    def share(self, serial: int, refused: int, route: Route, cost: int) -> None:
        """Cache the route for callers with the same refused tools."""
        if self._cost + cost > REMEMBERED_TOOLS:
            self._by_caller.clear()
            self._by_refused.clear()
            self._cost = 0
        self._cost += cost
        self._by_refused[serial, refused] = route

    def keep(self, caller: Key, route: Route) -> None:
        """Cache the route of a caller."""
        if len(self._by_caller) >= REMEMBERED_CALLERS:
            self._by_caller.clear()
        self._by_caller[caller] = route


class PolicyFilteredRoute:
    """The policies for the tools of one route. Implements `gateway.values.Policies`.

    Args:
        route: The route without policies.
        rules: For each tool that policies apply to, by name.
        serial: Identifies it in *remembered*.
    """

    def __init__(
        self, route: Route, rules: Mapping[str, ToolRule], serial: int, remembered: CallerRoutes
    ) -> None:
        self._route = route
        self.rules = rules
        self._serial = serial
        self._remembered = remembered
        # Tools with the same policies share a rule: each rule is evaluated once for a caller.
        self._distinct = tuple({id(rule): rule for rule in rules.values()}.values())

    def seen_by(self, user: UserContext) -> Route:
        """Return the route with the tools that *user* may use; one object while nothing changes.

        One look-up for a caller that is cached.
        """
        key = (
            self._serial,
            user.user_id,
            user.role,
            user.groups,
            user.scopes,
            user.custom_scopes,
        )
        route = self._remembered.of(key)
        if route is None:
            route = self._narrowed(user)
            self._remembered.keep(key, route)
        return route

    def tools_named(self, names: Iterable[str]) -> Mapping[str, ToolEntry]:
        """Return tools of the server by name, whoever may use them."""
        return {name: self._route.tools[name] for name in names}

    def _narrowed(self, user: UserContext) -> Route:
        refused = 0
        for number, rule in enumerate(self._distinct):
            if not decide(user, rule).is_allowed:
                refused |= 1 << number
        if not refused:
            return self._route
        route = self._remembered.shared(self._serial, refused)
        if route is None:
            route = self._without(refused)
            cost = len(self._route.tools) + ROUTE_COST
            self._remembered.share(self._serial, refused, route, cost)
        return route

    def _without(self, refused: int) -> Route:
        gone = {id(rule) for at, rule in enumerate(self._distinct) if refused >> at & 1}
        hidden = {name: rule for name, rule in self.rules.items() if id(rule) in gone}
        tools = {name: tool for name, tool in self._route.tools.items() if name not in hidden}
        return replace(
            self._route,
            tools=MappingProxyType(tools),
            pages=build_pages([(name, tool.wire) for name, tool in tools.items()]),
            hidden=MappingProxyType(hidden),
        )


@dataclass(frozen=True, slots=True)
class _Known:
    """A route with its policies, and what it was made from.

    Attributes:
        base: The route without policies.
    """

    base: Route
    policies: tuple[Policy, ...]
    route: Route


class RoutePolicies:
    """Applies the current policies to routes."""

    def __init__(self) -> None:
        self._index = PolicyIndex()
        self._known: dict[str, _Known] = {}
        self._remembered = CallerRoutes()
        self._serials = count()

    def applied(self, routes: Iterable[Route]) -> list[Route]:
        """Return routes with their policies, in the same order.

        A route is the same object as before if neither it nor its policies have changed.

        Args:
            routes: All routes; others are dropped from the cache.
        """
        if self._index.is_empty:
            routes = list(routes)
            if all(route.default_effect is Effect.ALLOW for route in routes):
                self._known = {}
                return routes
        before, self._known = self._known, {}
        return [self._entry(self._index, route, before, self._known).route for route in routes]

    async def replace(
        self,
        policies: Iterable[Policy],
        routes: Iterable[Route],
        rest: Callable[[], Awaitable[None]],
    ) -> None:
        """Use other policies for every route that is applied from now on.

        Args:
            policies: All stored policies.
            routes: All routes; their rules are computed here, a few at a time.
            rest: Yields to other tasks, so that calls continue.
        """
        index = PolicyIndex(policies)
        known: dict[str, _Known] = {}
        for number, route in enumerate(routes, 1):
            if index.is_empty and route.default_effect is Effect.ALLOW:
                continue
            self._entry(index, route, self._known, known)
            if number % ROUTES_AT_A_TIME == 0:
                await rest()
        self._index, self._known = index, known

    def _entry(
        self,
        index: PolicyIndex,
        route: Route,
        before: Mapping[str, _Known],
        known: dict[str, _Known],
    ) -> _Known:
        policies = index.about(route.server_id, route.source_type)
        former = before.get(route.server_id)
        if former is not None and former.base is route and former.policies == policies:
            known[route.server_id] = former
            return former
        rules = rules_of(
            policies,
            (ToolFacts(tool.name, tool.facets) for tool in route.tools.values()),
            route.default_effect,
        )
        policed = route
        if rules:
            serial = next(self._serials)
            policed = replace(
                route, policies=PolicyFilteredRoute(route, rules, serial, self._remembered)
            )
        entry = known[route.server_id] = _Known(route, policies, policed)
        return entry
