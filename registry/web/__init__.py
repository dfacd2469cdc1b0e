"""HTTP layer: server, connections, middleware, error rendering, health."""
