"""Hypothesis, the same on every run and every machine."""

from typing import Any

from hypothesis import HealthCheck, settings


def examples(count: int, **more: Any) -> settings:
    """So many, always the same ones, however long a busy machine takes to make them."""
    return settings(
        max_examples=count, derandomize=True, database=None, deadline=None,
        suppress_health_check=[HealthCheck.too_slow], **more,
    )  # fmt: skip
