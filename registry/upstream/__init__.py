"""The only package that opens connections to upstreams."""
