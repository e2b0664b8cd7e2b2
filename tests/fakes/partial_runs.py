"""The stages of a run of one round, and the summary that its driver writes at the end."""

import json
from collections.abc import Callable
from typing import Any

from raypipe.store.artifacts import Attempt, Run
from tests.fakes.documents import record, summary_json

Begin = Callable[..., Run]
Finish = Callable[..., None]
WriteRows = Callable[..., Attempt]
PREPARED = ["catalog/seed", "catalog/truth", "catalog/listings"]
SFT = ["sft/adapter", "sft/chains", "sft/consensus", "sft/pairs", "sft/evaluation"]
ROUND_1 = ["round-1/adapter", "round-1/chains", "round-1/evaluation"]
STAGES = [*PREPARED, "pretrained/chains", "pretrained/evaluation", *SFT, *ROUND_1]


def summarise(run: Run, outcome: str = "trained", **changed: Any) -> None:
    """Write ``summary.json``; ``outcome`` is of round 1."""
    reason = "loss is nan" if outcome == "diverged" else ""
    records = [record(1, outcome=outcome, reason=reason)]
    written = summary_json(best="round-1", pairs=records)
    run.replace("summary.json", json.dumps(written | changed).encode())
