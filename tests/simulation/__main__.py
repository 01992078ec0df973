"""`python -m tests.simulation`; the command stands apart, as processes it starts do not import a `__main__`."""

import sys

from tests.simulation.command import main

sys.exit(main())
