"""`fromzero align reinforce --model MODEL --output FOLDER`."""

from fromzero.commands import Verb
from fromzero.tuning.reinforce import ReinforceConfig, align_reinforce

VERB = Verb(ReinforceConfig, align_reinforce)
