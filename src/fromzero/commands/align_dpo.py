"""`fromzero align dpo --model MODEL --preferences FILE --output FOLDER`."""

from fromzero.commands import Verb
from fromzero.tuning.preference import PreferenceConfig, align_preferences

VERB = Verb(PreferenceConfig, align_preferences)
