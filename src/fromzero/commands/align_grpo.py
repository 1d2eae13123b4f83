"""`fromzero align grpo --model MODEL --output FOLDER`."""

from fromzero.commands import Verb
from fromzero.tuning.grpo import GrpoConfig, align_grpo

VERB = Verb(GrpoConfig, align_grpo)
