"""What clients on loopback do without."""

import ssl

NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts nobody. Without it each client loads the system's authorities, which takes 30 ms."""
