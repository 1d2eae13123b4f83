"""Talk to a model: OpenAI's HTTP interface and a page to chat on, for one model on one machine.

In: a ServeConfig. Out: a server that runs until it is told to stop.

Reading order: config; service (the model and what it answers); schema (what may be asked); prompts and tools (from a
conversation to a prompt, and back to calls of tools); answers, chat, completions, texts (what is said); guard (what
stands before all of it: key, limits, log); metrics; app (the routes); server (sockets and signals).
"""

from fromzero.serving.config import LimitsConfig, ServeConfig
from fromzero.serving.server import serve

__all__ = ["LimitsConfig", "ServeConfig", "serve"]
