"""`python -m tests.cluster up|down|compiled`."""

import sys

from tests.cluster.cluster import main

sys.exit(main(sys.argv[1:]))
