"""`python -m framewright.cli`, where the console script is not on the PATH."""

import sys

from framewright.cli import main

sys.exit(main())
