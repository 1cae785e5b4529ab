"""`python -m edp_robot.cli` is `edp`."""

import sys

from . import main

sys.exit(main())
