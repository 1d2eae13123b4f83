"""`fromzero pretrain --tokens TOKENS --output FOLDER`."""

from fromzero.commands import Verb
from fromzero.training import PretrainConfig, pretrain

VERB = Verb(PretrainConfig, pretrain)
