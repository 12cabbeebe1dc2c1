"""vLLama: Ollama's interface on vLLM's engine."""

__version__ = "0.1.0"

OLLAMA_VERSION = "0.33.0"
"""The Ollama release whose wire behaviour `/api/version` announces: clients refuse servers that look old."""
