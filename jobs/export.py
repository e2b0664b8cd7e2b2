"""Export the preference pairs of a run as TRL's preference data set, and labels for review.

python jobs/export.py run.name=local
"""

import sys

from raypipe.command import main

if __name__ == "__main__":
    sys.exit(main("export", __doc__))
