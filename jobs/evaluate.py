r"""Judge any policy, or a model behind an endpoint, on labeled listings.

python jobs/evaluate.py judging.policy=best                      what the run's rounds ended with
python jobs/evaluate.py judging.policy=my-adapter judging.listings=test.parquet \
    judging.truth=truth.parquet
python jobs/evaluate.py judging.endpoint=https://api.openai.com/v1 \
    judging.endpoint_model=gpt-4o-mini                           with the key in OPENAI_API_KEY
"""

import sys

from raypipe.interruption import stoppable

if __name__ == "__main__":
    with stoppable():  # first: what is imported takes a second
        from raypipe.command import main

        sys.exit(main("evaluate", __doc__))
