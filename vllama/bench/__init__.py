"""A load of clients on a running server, and what they saw: light enough for hundreds of streams in one process.

`connection` speaks HTTP, `dialects` reads answers, `load` asks, `summary` counts.
"""
