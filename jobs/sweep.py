"""The paper's experiments as one job: every arm of its tables, with controls, intervals and a page.

python jobs/sweep.py                                  the embedded default
python jobs/sweep.py --plan --config jobs/configs/qwen2.5-vl-3b.yaml
"""

import sys

from raypipe.command import main

if __name__ == "__main__":
    sys.exit(main("sweep", __doc__))
