"""Check a catalog and its attribute schema and prepare its listings; no model is loaded.

python jobs/prepare.py --config my-catalog.yaml
"""

import sys

from raypipe.command import main

if __name__ == "__main__":
    sys.exit(main("prepare", __doc__))
