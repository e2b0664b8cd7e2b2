"""Export what a run has: pairs as TRL's preference data set, chains, adapters with model cards, and
labels for review.

python jobs/export.py run.name=local
"""

import sys

from raypipe.command import main

if __name__ == "__main__":
    sys.exit(main("export", __doc__))
