"""`fromzero align answers --model MODEL --output FOLDER`."""

from fromzero.commands import Verb
from fromzero.tuning.answer_pairs import AnswerPairsConfig, make_answer_pairs

VERB = Verb(AnswerPairsConfig, make_answer_pairs)
