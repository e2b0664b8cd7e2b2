"""Check a catalog and its attribute schema and prepare its listings; no model is loaded.

python jobs/prepare.py --config my-catalog.yaml
"""

import sys

from raypipe.interruption import stoppable

if __name__ == "__main__":
    with stoppable():  # first: what is imported takes a second
        from raypipe.command import main

        sys.exit(main("prepare", __doc__))
