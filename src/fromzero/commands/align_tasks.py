"""`fromzero align tasks --output FOLDER`."""

from fromzero.commands import Verb
from fromzero.tuning.worked import WorkedConfig, make_worked

VERB = Verb(WorkedConfig, make_worked)
