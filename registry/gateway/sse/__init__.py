"""Clients of the HTTP+SSE transport (2024-11-05), adapted to the gateway's own requests."""
