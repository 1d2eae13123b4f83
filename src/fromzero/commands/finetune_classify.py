"""`fromzero finetune classify --model MODEL --data FILE --output FOLDER`."""

from fromzero.commands import Verb
from fromzero.tuning.classify import ClassifyConfig, finetune_classify

VERB = Verb(ClassifyConfig, finetune_classify)
