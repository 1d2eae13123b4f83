"""`fromzero align expert-iteration --model MODEL --output FOLDER`."""

from fromzero.commands import Verb
from fromzero.tuning.expert_iteration import ExpertIterationConfig, align_expert_iteration

VERB = Verb(ExpertIterationConfig, align_expert_iteration)
