"""What an engine's environment is built for."""

from enum import StrEnum


class Profile(StrEnum):
    """For which hardware an environment is built."""

    CPU = "cpu"
    CUDA = "cuda"
