"""`fromzero finetune questions --corpus CORPUS --output FOLDER`."""

from fromzero.commands import Verb
from fromzero.tuning import QuestionsConfig, make_questions

VERB = Verb(QuestionsConfig, make_questions)
