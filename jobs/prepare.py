"""Check a catalog and its attribute schema and prepare its listings; no model is loaded.

python jobs/prepare.py --config my-catalog.yaml
"""

import sys

from raypipe.runtime.interruption import stoppable

if __name__ == "__main__":
    with stoppable():  # first: what is imported takes a second
        from raypipe.cli.jobs import main

        sys.exit(main("prepare", __doc__))
