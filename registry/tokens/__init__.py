"""OAuth tokens and API keys at rest."""
