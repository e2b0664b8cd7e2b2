"""Parts of a vote: what an arm of an experiment learns from."""

import random

import pytest

import raypipe.consensus.stage as consensus
from raypipe.attributes.pool_slices import Slice
from raypipe.config import Config
from raypipe.consensus.subset import Subset, select
from raypipe.errors import ArtifactError, ConfigDriftError
from raypipe.schemas import CONSENSUS, PAIRS

CONFIG = Config()


@pytest.fixture
def voted(make_run):
    run = make_run("run")
    consensus.run(CONFIG, run, scope="sft", round_index=1)
    return run


def pairs_of(run, scope):
    return {
        (row["listing_id"], row["attribute"], pair["rejected_index"]): pair
        for row in run.artifact(f"{scope}/pairs", PAIRS).read().to_pylist()
        for pair in row["pairs"]
    }


def listed(run, scope):
    rows = run.artifact(f"{scope}/pairs", PAIRS).read().to_pylist()
    return [pair for row in rows for pair in row["pairs"]]


def queries_of(run, scope):
    rows = run.artifact(f"{scope}/consensus", CONSENSUS).read().to_pylist()
    return {(row["listing_id"], row["attribute"]): row for row in rows}


def take(run, scope, selection, config=CONFIG):
    return select(config, run, scope=scope, source="sft", selection=selection)


def test_all_of_a_vote_is_its_pool(voted):
    commit = take(voted, "arm", Subset())
    assert pairs_of(voted, "arm") == pairs_of(voted, "sft")
    pool = {key: row for key, row in queries_of(voted, "sft").items() if row["split"] == "pool"}
    assert queries_of(voted, "arm") == pool
    funnel = voted.artifact("sft/consensus").read_json("funnel.json")["total"]
    assert commit.counts["queries"] == funnel["queries"]["asked"] == len(pool)
    for name in ("kept", "unanimous", "paired"):
        assert commit.counts[name] == funnel["queries"][name]
    assert commit.counts["pairs"] == funnel["pairs"]


def test_a_smaller_pool_has_the_same_pairs_of_fewer_listings(voted):
    half = Slice(0.0, 0.5)
    take(voted, "half", Subset(pool=half))
    kept = pairs_of(voted, "half")
    assert kept == {
        key: pair for key, pair in pairs_of(voted, "sft").items() if half.holds(key[0], 0)
    }
    assert 0 < len(kept) < len(pairs_of(voted, "sft"))
    assert {key[0] for key in kept} <= {key[0] for key in queries_of(voted, "half")}


@pytest.mark.parametrize("number", [0, 1, 7, 10_000])
def test_fewer_pairs_are_so_many_of_the_same(voted, number):
    commit = take(voted, "fewer", Subset(max_pairs=number))
    everything, kept = pairs_of(voted, "sft"), pairs_of(voted, "fewer")
    assert len(kept) == commit.counts["pairs"] == min(number, len(everything))
    assert kept.items() <= everything.items()
    told = sum(row["num_pairs"] for row in queries_of(voted, "fewer").values())
    assert told == len(kept)


def test_fewer_pairs_do_not_depend_on_the_order_of_rows(make_run, chain_rows):
    kept = []
    for name, order in (("one", chain_rows), ("two", random.Random(3).sample(chain_rows, 34))):
        run = make_run(name, chains=order, per_file=3)
        consensus.run(CONFIG, run, scope="sft", round_index=1)
        take(run, "fewer", Subset(max_pairs=9))
        kept.append(pairs_of(run, "fewer"))
    assert kept[0] == kept[1]


def test_shuffled_pairs_are_the_same_chains_and_about_half_trade_places(voted):
    take(voted, "null", Subset(shuffled=True))
    before, after = listed(voted, "sft"), listed(voted, "null")

    def texts(pairs):
        return sorted(sorted((pair["chosen"], pair["rejected"])) for pair in pairs)

    assert texts(before) == texts(after)
    told = {(pair["chosen"], pair["rejected"]) for pair in before}
    turned = sum((pair["chosen"], pair["rejected"]) not in told for pair in after)
    assert 0.2 < turned / len(after) < 0.8


def test_paired_only_leaves_what_dpo_learns_from(voted):
    commit = take(voted, "paired", Subset(paired_only=True))
    assert {key[:2] for key in pairs_of(voted, "sft")} == set(queries_of(voted, "paired"))
    assert commit.counts["kept"] == commit.counts["paired"] == commit.counts["queries"]
    assert commit.counts["unanimous"] == 0


def test_the_same_again_is_reused_and_another_selection_refused(voted):
    assert not take(voted, "arm", Subset()).reused
    assert take(voted, "arm", Subset()).reused
    with pytest.raises(ConfigDriftError, match="max_pairs"):
        take(voted, "arm", Subset(max_pairs=1))


def test_a_vote_that_is_not_there_is_named(make_run):
    with pytest.raises(ArtifactError, match="sft/consensus is not committed"):
        take(make_run("run"), "arm", Subset())


def test_a_part_of_the_pool_that_was_sampled_is_voted_on_alone(make_run, chain_rows):
    half = Slice(0.0, 0.5)
    rows = [row for row in chain_rows if row["split"] != "pool" or half.holds(row["listing_id"], 0)]
    run = make_run("run", chains=rows, fingerprint={"pool": [half.low, half.high]})
    consensus.run(CONFIG, run, scope="sft", round_index=1)
    asked = {key[0] for key, row in queries_of(run, "sft").items() if row["split"] == "pool"}
    assert asked == {row["listing_id"] for row in rows if row["split"] == "pool"}
