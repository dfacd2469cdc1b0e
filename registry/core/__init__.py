"""Settings, errors, clock, logs, metrics and paging; knows no MCP, HTTP or Mongo."""
