"""Exchanges with upstreams over HTTP, and the limits that protect each server."""
