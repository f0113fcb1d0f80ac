"""`python -m defectlab`."""

import sys

from defectlab.cli.main import main

sys.exit(main())
