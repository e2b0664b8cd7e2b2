r"""Judge any policy, or a model behind an endpoint, on labeled listings.

python jobs/evaluate.py evals.policy=best                      what the run's rounds ended with
python jobs/evaluate.py evals.policy=my-adapter evals.listings=test.parquet \
    evals.truth=truth.parquet
python jobs/evaluate.py evals.endpoint=https://api.openai.com/v1 \
    evals.endpoint_model=gpt-4o-mini                           with the key in OPENAI_API_KEY
"""

import sys

from raypipe.runtime.interruption import stoppable

if __name__ == "__main__":
    with stoppable():  # first: what is imported takes a second
        from raypipe.cli.jobs import main

        sys.exit(main("evaluate", __doc__))
