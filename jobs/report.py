"""Write the report of a finished or unfinished run again.

python jobs/report.py run.name=local
"""

import sys

from raypipe.command import main

if __name__ == "__main__":
    sys.exit(main("report", __doc__))
