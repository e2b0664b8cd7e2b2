"""The stage on a run directory: what it commits, resumes, refuses and does not depend on."""

import copy
import random

import pytest

import raypipe.consensus.stage as consensus
from raypipe.attributes.pool_slices import Slice
from raypipe.config import Config, ConsensusConfig, resolve
from raypipe.errors import ArtifactError, ConfigDriftError
from raypipe.schemas import CHAINS, CONSENSUS, PAIRS
from raypipe.store.artifacts import Artifact, Attempt

CONFIG = Config()


def vote(run, config=CONFIG, round_index=1):
    return consensus.run(config, run, scope="sft", round_index=round_index)


def digests(run):
    return [run.artifact(f"sft/{name}").require_commit().digest for name in ("consensus", "pairs")]


def test_every_pool_and_anchor_query_is_judged_once(make_run, chain_rows):
    run = make_run("run")
    commit = vote(run)
    rows = run.artifact("sft/consensus", CONSENSUS).read().to_pylist()
    asked = {
        (listing["listing_id"], query["attribute"]): query["chains"]
        for listing in chain_rows
        if listing["split"] in ("pool", "anchor")
        for query in listing["queries"]
    }
    assert {(row["listing_id"], row["attribute"]) for row in rows} == set(asked)
    assert commit.rows == len(rows) == len(asked)
    for row in rows:
        chains = asked[row["listing_id"], row["attribute"]]
        votes = {vote["value"]: vote["count"] for vote in row["votes"]}
        assert row["num_chains"] == 7
        assert row["num_valid"] == sum(votes.values())
        truncated = sum(chain["finish_reason"] == "length" for chain in chains)
        assert row["num_truncated"] == truncated
        assert row["confidence"] == votes.get(row["answer"], 0) / 7
        assert (row["gate"] == "kept") == (row["confidence"] > 0.5)
        assert bool(row["preferred"]) == (row["gate"] == "kept")
    assert {row["gate"] for row in rows} > {"kept", "below_threshold"}


def test_pairs_are_of_the_pool_and_carry_the_chains(make_run, chain_rows, listing_rows):
    run = make_run("run")
    vote(run)
    chains = {
        (row["listing_id"], query["attribute"]): query["chains"]
        for row in chain_rows
        for query in row["queries"]
    }
    prompts = {
        (row["listing_id"], query["attribute"]): query["prompt"]
        for row in listing_rows
        for query in row["queries"]
    }
    splits = {row["listing_id"]: row["split"] for row in listing_rows}
    judged = {
        (row["listing_id"], row["attribute"]): row
        for row in run.artifact("sft/consensus", CONSENSUS).read().to_pylist()
    }
    rows = run.artifact("sft/pairs", PAIRS).read().to_pylist()
    assert rows
    for row in rows:
        key = (row["listing_id"], row["attribute"])
        assert splits[row["listing_id"]] == "pool"
        assert row["prompt"] == prompts[key]
        first, second = [*(vote["count"] for vote in judged[key]["votes"]), 0][:2]
        assert row["margin"] == (first - second) / 7 > 0
        assert len(row["pairs"]) == 7 - len(judged[key]["preferred"]) == judged[key]["num_pairs"]
        for pair in row["pairs"]:
            assert pair["chosen_index"] in judged[key]["preferred"]
            assert pair["chosen"] == chains[key][pair["chosen_index"]]["text"]
            assert pair["rejected"] == chains[key][pair["rejected_index"]]["text"]
    with_pairs = {key for key, row in judged.items() if row["num_pairs"]}
    assert with_pairs == {(row["listing_id"], row["attribute"]) for row in rows}


def test_the_funnel_is_of_the_pool_and_agrees_with_the_tables(make_run):
    run = make_run("run")
    commit = vote(run)
    funnel = run.artifact("sft/consensus", CONSENSUS).read_json("funnel.json")
    rows = run.artifact("sft/consensus", CONSENSUS).read().to_pylist()
    pool = [row for row in rows if row["split"] == "pool"]
    total = funnel["total"]
    kept = total["queries"]["kept"]
    assert commit.counts == {"queries": len(pool), "kept": kept, "pairs": total["pairs"]}
    assert total["queries"]["asked"] == len(pool)
    assert total["chains"]["valid"] == sum(row["num_valid"] for row in pool)
    assert total["pairs"] == sum(row["num_pairs"] for row in pool)
    for gate in ("kept", "tie", "below_threshold", "no_valid_chain"):
        assert total["queries"][gate] == sum(row["gate"] == gate for row in pool)
    assert set(funnel["by_vertical"]) == {"Dress", "Shoe"}
    assert set(funnel["by_attribute"]) == {"Dress/colour", "Dress/sleeve", "Shoe/heel"}


@pytest.mark.parametrize("per_file", [1, 7, 100])
def test_neither_order_nor_files_of_the_chains_matter(make_run, chain_rows, per_file):
    vote(run := make_run("as they came"))
    shuffled = copy.deepcopy(chain_rows)
    draw = random.Random(per_file)
    draw.shuffle(shuffled)
    for row in shuffled:
        draw.shuffle(row["queries"])
    other = make_run("shuffled", shuffled, per_file)
    # The order of queries inside a row is part of the chains' digest, and of nothing after it.
    vote(other)
    assert digests(other) == digests(run)


def test_small_tasks_give_the_same(make_run, chain_rows, monkeypatch):
    vote(run := make_run("one task"))
    monkeypatch.setattr(consensus, "_LISTINGS_PER_FILE", 4)
    vote(other := make_run("many tasks", chain_rows, 2))
    assert len(other.artifact("sft/consensus").require_commit().files) > 4
    assert digests(other) == digests(run)


def test_files_without_a_sampled_listing_are_passed_over_in_a_slice(
    make_run, listing_rows, chain_rows
):
    pool = Slice(0.0, 0.5)
    ids = [row["listing_id"] for row in listing_rows if row["split"] == "pool"]
    inside = {name for name in ids if pool.holds(name, CONFIG.run.seed)}
    assert inside
    left = [row for row in chain_rows if row["split"] != "pool" or row["listing_id"] in inside]
    run = make_run("sliced", left, fingerprint={"pool": [0.0, 0.5]})
    vote(run)
    voted = run.artifact("sft/consensus", CONSENSUS).read(["listing_id", "split"]).to_pylist()
    assert {row["listing_id"] for row in voted if row["split"] == "pool"} == inside


def test_a_second_call_finds_the_commit(make_run):
    run = make_run("run")
    first = vote(run)
    second = vote(run)
    assert not first.reused
    assert second.reused
    assert second == first


@pytest.mark.parametrize("killed_at", [0, 1])
def test_a_kill_around_the_first_commit_resumes_to_the_same(make_run, monkeypatch, killed_at):
    vote(whole := make_run("whole"))
    run = make_run("killed")
    commit, commits = Attempt.commit, []

    def killed(self, **kwargs):
        if len(commits) == killed_at:
            raise KeyboardInterrupt
        commits.append(commit(self, **kwargs))
        return commits[-1]

    with monkeypatch.context() as patch:
        patch.setattr(Attempt, "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            vote(run)
    assert run.artifact("sft/consensus").commit() is None
    before = run.artifact("sft/pairs").commit()
    assert (before is None) == (killed_at == 0)
    vote(run)
    assert digests(run) == digests(whole)
    if before is not None:
        assert run.artifact("sft/pairs").require_commit() == before


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"consensus": {"threshold": 0.6}}, "consensus.threshold"),
        ({"sampling": {"num_chains": 8}}, "sampling.num_chains"),
        ({"run": {"seed": 1}}, "run.seed"),
        ({"model": {"answer_format": "answer_only"}}, "model.answer_format"),
    ],
)
def test_a_changed_setting_is_refused_by_name(make_run, changed, key):
    run = make_run("run")
    vote(run)
    with pytest.raises(ConfigDriftError, match=key):
        vote(run, resolve(changed))
    with pytest.raises(ConfigDriftError, match="round_index"):
        vote(run, round_index=2)
    vote(run, resolve({"sampling": {"num_actors": 4}, "training": {"beta": 0.1}}))


def test_decision_denominator_does_not_shrink_with_missing_chains(make_run, chain_rows):
    chain_rows[1]["queries"][0]["chains"] = chain_rows[1]["queries"][0]["chains"][:2]
    run = make_run("run", chain_rows)
    vote(run)
    rows = run.artifact("sft/consensus", CONSENSUS).read().to_pylist()
    short = next(row for row in rows if row["listing_id"] == "l01" and row["attribute"] == "colour")
    assert (short["num_chains"], short["gate"]) != (2, "kept")
    assert short["confidence"] <= 2 / 7
    funnel = run.artifact("sft/consensus", CONSENSUS).read_json("funnel.json")
    assert funnel["total"]["chains"]["missing"] == 5


def test_a_listing_that_sampling_refused_is_not_asked_for(make_run):
    run = make_run("run", refused=["l02", "l25"])
    vote(run)
    ids = run.artifact("sft/consensus", CONSENSUS).read(["listing_id"]).column(0).to_pylist()
    assert not {"l02", "l25"} & set(ids)


def test_chains_that_are_not_the_catalogs_are_refused(make_run, chain_rows):
    with pytest.raises(ArtifactError, match="1 rows lost"):
        vote(make_run("lost listing", chain_rows[1:]))
    with pytest.raises(ArtifactError, match="came out twice"):
        vote(make_run("doubled listing", [*chain_rows, chain_rows[0]]))
    lost_query = copy.deepcopy(chain_rows)
    del lost_query[1]["queries"][0]
    with pytest.raises(ArtifactError, match="'l01' are not those of its queries"):
        vote(make_run("lost query", lost_query))
    other_split = copy.deepcopy(chain_rows)
    other_split[1]["split"] = "anchor"
    with pytest.raises(ArtifactError, match="'l01' are not those of its queries"):
        vote(make_run("other split", other_split))
    stranger = [*chain_rows, {**copy.deepcopy(chain_rows[1]), "listing_id": "stranger"}]
    with pytest.raises(ArtifactError, match="'stranger' are not those of its queries"):
        vote(make_run("stranger", stranger))
    too_many = copy.deepcopy(chain_rows)
    too_many[1]["queries"][0]["chains"] *= 2
    with pytest.raises(ArtifactError, match="'l01', colour: 14 chains where 7 were requested"):
        vote(make_run("too many", too_many))


def test_no_pair_at_all_is_an_empty_commit(make_run):
    run = make_run("run")
    vote(run, resolve({"consensus": {"threshold": 0.99}}))
    assert run.artifact("sft/pairs").require_commit().rows == 0
    assert run.artifact("sft/pairs", PAIRS).read().schema.equals(PAIRS.schema)


def test_images_are_not_read(make_run, monkeypatch):
    run = make_run("run")
    read_parquet = Artifact._read_parquet

    def checked(self, source, path, columns):
        if "catalog/listings" in path:
            assert "images" not in (columns or ["images"])
        return read_parquet(self, source, path, columns)

    monkeypatch.setattr(Artifact, "_read_parquet", checked)
    vote(run)


def test_token_ids_are_not_read(make_run, monkeypatch):
    run = make_run("run")
    rows_of, read = Artifact.rows_of, []

    def checked(self, file, columns=None):
        rows = rows_of(self, file, columns)
        if self.name == "sft/chains" and file.kind == "data":
            read.append(str(rows.schema.field("queries").type))
        return rows

    monkeypatch.setattr(Artifact, "rows_of", checked)
    vote(run)
    assert read
    assert all("finish_reason" in kind and "token_ids" not in kind for kind in read)


def test_a_field_that_chains_lack_is_refused(make_run):
    run = make_run("run")
    chains = run.artifact("sft/chains", CHAINS)
    columns = ["listing_id", "queries.chains.text"]
    assert chains.rows_of(chains.files()[0], columns).column_names == ["listing_id", "queries"]
    for wrong in (["queries.chains.words"], ["queries.words"], ["words"]):
        with pytest.raises(ArtifactError, match="there is no column"):
            chains.rows_of(chains.files()[0], wrong)


def test_a_key_that_is_new_in_its_section_is_part_of_the_fingerprint(make_run):
    class Wider(ConsensusConfig):
        min_margin: float = 0.0

    def config(min_margin):
        return CONFIG.model_copy(update={"consensus": Wider(min_margin=min_margin)})

    run = make_run("run")
    vote(run, config(0.0))
    assert vote(run, config(0.0)).reused
    with pytest.raises(ConfigDriftError, match=r"consensus\.min_margin: 0\.0 -> 0\.9"):
        vote(run, config(0.9))
