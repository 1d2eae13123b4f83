"""`python -m fromzero` is the same as `fromzero`."""

import sys

from fromzero.commands import main

sys.exit(main())
