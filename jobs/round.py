"""Run, resume or repeat a whole run: prepare, SFT, and rounds of sample → vote → train → evaluate.

python jobs/round.py                                  the embedded default
python jobs/round.py --config jobs/configs/qwen2.5-vl-3b.yaml sampling.num_chains=5
"""

import sys

from raypipe.runtime.interruption import stoppable

if __name__ == "__main__":
    with stoppable():  # first: what is imported takes a second
        from raypipe.cli.jobs import main

        sys.exit(main("round", __doc__))
