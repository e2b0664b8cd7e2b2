"""Hand labels to people in Label Studio, and take up what they say.

python jobs/review.py --config my.yaml
python jobs/review.py --config my.yaml --import export.json --as seed
"""

import sys

from raypipe.command import main

if __name__ == "__main__":
    sys.exit(main("review", __doc__))
