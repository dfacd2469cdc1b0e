"""Vectors of texts: models in a process of their own, a cache of vectors, what is made of them.

From the outside in: `model_process` runs a model, `model_client` asks it, `repository` keeps
vectors by the digest of their text, `worker` embeds what is pending, `composition` (pure) makes
the vectors of tools and servers of them, and `feeding` gives these to the index.
"""
