"""Tokens: stored OAuth tokens and API keys of users, and our own issued tokens."""
