"""Merge a policy's adapter into its base model, as a checkpoint that plain vLLM serves.

python jobs/merge.py --target served                                  what the rounds ended with
python jobs/merge.py --policy round-1 --target served run.name=local
"""

import sys

from raypipe.command import main

if __name__ == "__main__":
    sys.exit(main("merge", __doc__))
