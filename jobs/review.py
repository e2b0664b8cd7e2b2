"""Hand labels to people in Label Studio, and take up what they say.

python jobs/review.py --config my.yaml
python jobs/review.py --config my.yaml --import export.json --as seed
"""

import sys

from raypipe.runtime.interruption import stoppable

if __name__ == "__main__":
    with stoppable():  # first: what is imported takes a second
        from raypipe.cli.jobs import main

        sys.exit(main("review", __doc__))
