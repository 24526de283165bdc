"""`python -m ditta_ros.cli`."""

import sys

from ditta_ros.cli.main import main

sys.exit(main())
