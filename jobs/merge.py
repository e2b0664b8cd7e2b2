"""Merge a policy's adapter into its base model, as a checkpoint that plain vLLM serves.

python jobs/merge.py --target served                                  what the rounds ended with
python jobs/merge.py --policy round-1 --target served run.name=local
"""

import sys

from raypipe.runtime.interruption import stoppable

if __name__ == "__main__":
    with stoppable():  # first: what is imported takes a second
        from raypipe.cli.jobs import main

        sys.exit(main("merge", __doc__))
