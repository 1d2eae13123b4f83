"""`fromzero align reward --model MODEL --preferences FILE --output FOLDER`."""

from fromzero.commands import Verb
from fromzero.tuning.reward import RewardConfig, align_reward

VERB = Verb(RewardConfig, align_reward)
