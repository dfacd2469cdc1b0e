"""HTTP/1.1 of our clients, over uvicorn: connections, limits, answers, graceful shutdown."""
