"""asintrovae-sweep as `python -m asintrovae.sweeps`."""

import sys

from asintrovae.sweeps.command import main

sys.exit(main())
