"""Chat templates that clients and Modelfiles bring."""

import re

_GO_TEMPLATE = re.compile(r"\{\{-?\s*(\.|if\b|range\b|end\b|else\b|with\b|\$)")

NO_TEMPLATE = "{{ .Prompt }}"
"""What Ollama shows of a model that takes prompts as they are."""


def is_go_template(template: str) -> bool:
    """Whether it is in the language of Ollama's own templates, which vLLM does not render: its own is Jinja."""
    return _GO_TEMPLATE.search(template) is not None
