"""HTTP layer: middleware, error rendering, health."""
