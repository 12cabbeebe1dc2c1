"""The launcher: runs inside the engine's environment and knows vLLM. The gateway never imports it."""
