"""Migration of the older two-table layout: one table of servers, one of their tools."""
