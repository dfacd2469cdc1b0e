"""What every HTTP answer shares: error rendering, middleware, health."""
