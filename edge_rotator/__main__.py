"""`python3 -m edge_rotator`: the same as the installed command."""

import sys

from edge_rotator.cli import main

sys.exit(main())
