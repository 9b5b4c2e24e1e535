"""`python -m etastar`: the command, where its script is not on the path."""

import sys

from etastar.cli import main

sys.exit(main())
