"""Several processes on one port: how they are kept running, and how they reach each other."""
