"""HTTP/1.1 to upstreams and other workers, over connections that aiohttp makes."""
