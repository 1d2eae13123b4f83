"""`fromzero finetune distill --model SMALL --teacher LARGE --conversations FILE --output FOLDER`."""

from fromzero.commands import Verb
from fromzero.tuning.distill import DistillConfig, finetune_distill

VERB = Verb(DistillConfig, finetune_distill)
