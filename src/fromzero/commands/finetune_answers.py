"""`fromzero finetune answers --prompts FILE --teacher MODEL --output FOLDER`, or --url in place of --teacher."""

from fromzero.commands import Verb
from fromzero.tuning.collected import AnswersConfig, collect_answers

VERB = Verb(AnswersConfig, collect_answers)
