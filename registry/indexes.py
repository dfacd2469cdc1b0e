"""Our own indexes on shared collections, collected from the repositories that need them."""

from registry.servers.storage.indexes import INDEXES as SERVER_INDEXES
from registry.tokens.plugin_auths import PLUGIN_AUTH_INDEXES
from registry.tokens.repository import TOKEN_INDEXES

EXTRA_INDEXES = {
    "mcpservers": SERVER_INDEXES,
    "tokens": TOKEN_INDEXES,
    "pluginauths": PLUGIN_AUTH_INDEXES,
}
"""Indexes in addition to the published ones, by collection."""
