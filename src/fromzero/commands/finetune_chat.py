"""`fromzero finetune chat --model MODEL --conversations FILE --output FOLDER`."""

from fromzero.commands import Verb
from fromzero.tuning import ChatConfig, finetune_chat

VERB = Verb(ChatConfig, finetune_chat)
