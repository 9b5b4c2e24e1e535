"""`python -m etastar`: the command, where its script is not on the path."""

import sys

from etastar.cli import main

code = main()
# Where Ctrl-C fell into code made from text, such as a dataclass being imported, `python -m` would
# end by the signal instead of this code; running any text anew makes it forget that.
exec("")
sys.exit(code)
