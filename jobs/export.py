"""Export what a run has: pairs as TRL's preference data set, chains, adapters with model cards, and
labels for review.

python jobs/export.py run.name=local
"""

import sys

from raypipe.runtime.interruption import stoppable

if __name__ == "__main__":
    with stoppable():  # first: what is imported takes a second
        from raypipe.cli.jobs import main

        sys.exit(main("export", __doc__))
