"""`python -m edp_robot.cli` is `edp`."""

import sys

from edp_robot.cli import main

sys.exit(main())
