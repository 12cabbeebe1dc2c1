"""The types of the protocols: Ollama's towards clients, OpenAI's towards the engine; and nothing else."""
