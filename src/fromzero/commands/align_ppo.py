"""`fromzero align ppo --model MODEL --output FOLDER`."""

from fromzero.commands import Verb
from fromzero.tuning.ppo import PpoConfig, align_ppo

VERB = Verb(PpoConfig, align_ppo)
