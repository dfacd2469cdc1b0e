"""Prompts, resources and resource templates of upstreams: intake, reconciliation, rows."""
