"""The paper's experiments as one job: every arm of its tables, with controls, intervals and a page.

python jobs/sweep.py                                  the embedded default
python jobs/sweep.py --plan --config jobs/configs/qwen2.5-vl-3b.yaml
"""

import sys

from raypipe.runtime.interruption import stoppable

if __name__ == "__main__":
    with stoppable():  # first: what is imported takes a second
        from raypipe.cli.jobs import main

        sys.exit(main("sweep", __doc__))
