"""vLLama: Ollama's interface on vLLM's engine."""

from importlib.metadata import version as _version

__version__ = _version("vllama")

OLLAMA_VERSION = "0.33.0"
"""The Ollama release whose wire behaviour `/api/version` announces: clients refuse servers that look old."""
