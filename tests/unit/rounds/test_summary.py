"""The summary of a run."""

import json

from raypipe.rounds import summary
from raypipe.store.artifacts import Run
from raypipe.summaries import Summary
from tests.fakes.scripted_rounds import RunDriver, ScriptedRounds


def test_the_summary_has_the_documented_keys_and_a_digest_and_seconds_for_every_artifact(
    stages: ScriptedRounds, drive: RunDriver, run: Run
) -> None:
    written = drive(rounds={"num_rounds": 2})
    assert json.loads(run.read(Summary.FILE) or b"") == written.to_json()
    for key in Summary.model_fields:
        assert f'"{key}":' in (summary.__doc__ or "")
    by_products = {"catalog/seed", "catalog/truth", "sft/pairs", "round-1/pairs"}
    assert written.digests.keys() == {*stages.made, *by_products}
    assert written.seconds.keys() == written.digests.keys()
    assert written.funnel.keys() == {"sft", "round-1"}
    (pretrained, *_) = written.stages
    assert pretrained.model_dump(mode="json") | {"policy_id": ""} == {
        "name": "pretrained",
        "accuracy": 0.5,
        "ci95": [0.45, 0.55],
        "queries": 100,
        "invalid": 0.1,
        "anchor_accuracy": 0.5,
        "decision": None,
        "policy_id": "",
    }
    assert len({stage.policy_id for stage in written.stages}) == 4
