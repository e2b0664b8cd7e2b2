"""Write the report of a finished or unfinished run again.

python jobs/report.py run.name=local
"""

import sys

from raypipe.runtime.interruption import stoppable

if __name__ == "__main__":
    with stoppable():  # first: what is imported takes a second
        from raypipe.cli.jobs import main

        sys.exit(main("report", __doc__))
