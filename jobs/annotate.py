r"""Annotate a seed through an OpenAI-compatible endpoint; the same command resumes.

python jobs/annotate.py --config my-catalog.yaml --plan
python jobs/annotate.py --config my-catalog.yaml annotation.max_cost=5 \
    annotation.endpoint=https://api.openai.com/v1 annotation.endpoint_model=gpt-4o-mini
                                                     with the key in OPENAI_API_KEY
"""

import sys

from raypipe.runtime.interruption import stoppable

if __name__ == "__main__":
    with stoppable():  # first: what is imported takes a second
        from raypipe.cli.jobs import main

        sys.exit(main("annotate", __doc__))
