"""Notification streams to clients, and the feeds from servers that supply them."""
