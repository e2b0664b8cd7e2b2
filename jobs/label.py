"""Label a whole catalog with a policy of a run; the same command resumes and brings up to date.

python jobs/label.py                                        the run's own listings, embedded default
python jobs/label.py labeling.policy=pretrained labeling.mode=greedy
python jobs/label.py --config my-run.yaml labeling.listings=s3://shop/catalog --plan

--plan samples nothing, but it prepares the run's own catalog first where that is not done yet.
"""

import sys

from raypipe.runtime.interruption import stoppable

if __name__ == "__main__":
    with stoppable():  # first: what is imported takes a second
        from raypipe.cli.jobs import main

        sys.exit(main("label", __doc__))
