"""HTTP/1.1 over the parts of uvicorn and aiohttp that their documentation does not name.

No other module uses such a part. `tests/http/test_private_names.py` lists them and holds the
installed releases to what is relied on; pyproject.toml bounds the releases from above.
"""
