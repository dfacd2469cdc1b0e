"""Reconciliation: what is read of upstreams becomes what is stored of servers and their tools."""
