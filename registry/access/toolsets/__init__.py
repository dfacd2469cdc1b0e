"""Toolsets: named subsets of the tools of any number of servers."""
