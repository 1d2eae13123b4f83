"""`fromzero serve MODEL`: OpenAI's HTTP interface and a page to chat on."""

from fromzero.commands import Verb
from fromzero.serving import ServeConfig, serve

VERB = Verb(ServeConfig, serve, "model")
