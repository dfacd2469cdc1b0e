"""Approvals: calls of tools that people must approve, and what became of them."""
