"""Which ready engine serves a model: loaded on demand within the memory there is, unloaded when idle.

Knows nothing of HTTP. Exports nothing itself: the engine imports `plan`, and the rest of the package the engine.
"""
