"""Pairs and the verdict as a whole: what follows from any chains that a query may get."""

from collections import Counter
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.attributes.parser import chain_losses
from raypipe.attributes.prompts import without_control_tokens
from raypipe.attributes.schema import Attribute
from raypipe.attributes.vote import Gate
from raypipe.config import Config
from raypipe.consensus.funnel import FunnelCounter
from raypipe.consensus.pairs import make_pairs
from raypipe.consensus.query_outcome import ConsensusRules, decide_query

COLOUR = Attribute("Dress", "colour", "The colour.", ("Red", "Blue", "None"), {})
RULES = ConsensusRules.of(Config(), round_index=1)

Chains = list[tuple[str, str]]


def says(answer: str, number: int = 0, finish_reason: str = "stop") -> tuple[str, str]:
    return f"<reasoning>{number}</reasoning><answer>{answer}</answer>", finish_reason


ONE_CHAIN = st.one_of(
    st.sampled_from(["Red", "blue", "None", "Green"]).map(says),
    st.just(("<answer>Red</answer>", "stop")),
    st.just((says("Red")[0] + " indeed", "stop")),
    st.sampled_from(["Red", "Blue"]).map(lambda answer: says(answer, 0, "length")),
)
CHAINS = st.lists(ONE_CHAIN, max_size=RULES.num_chains)
# Chains of a query as sampling gives them: no two say the same, word for word.
DISTINCT_CHAINS = CHAINS.map(
    lambda chains: [(f"{i} {text}", reason) for i, (text, reason) in enumerate(chains)]
)


def judged(chains: Chains, listing_id: str = "l1", rules: ConsensusRules = RULES):
    texts = [text for text, _ in chains]
    return decide_query(texts, [reason for _, reason in chains], COLOUR, listing_id, rules)


@given(DISTINCT_CHAINS)
def test_decision_pairs_per_query_is_one_per_dispreferred_chain(chains):
    verdict = judged(chains)
    rejected = [pair.rejected_index for pair in verdict.pairs]
    if verdict.gate != "kept":
        assert not verdict.preferred
        assert not verdict.pairs
    else:
        assert rejected == sorted(set(range(len(chains))) - set(verdict.preferred))
        assert verdict.unanimous == (not verdict.pairs)
        exceeds = Fraction(len(verdict.preferred), 7) > Fraction(1, 2)
        assert exceeds


@given(CHAINS)
def test_chosen_is_preferred_and_never_what_is_rejected(chains):
    verdict = judged(chains)
    for pair in verdict.pairs:
        assert pair.chosen_index in verdict.preferred
        assert pair.rejected_index not in verdict.preferred
        assert chains[pair.chosen_index][0] != chains[pair.rejected_index][0]


@given(CHAINS)
def test_decision_truncated_chain_is_never_chosen(chains):
    verdict = judged(chains)
    assert all(chains[index][1] == "stop" for index in verdict.preferred)


@given(CHAINS, st.randoms(use_true_random=False))
def test_permuted_chains_reach_the_same_consensus(chains, random):
    shuffled = judged(random.sample(chains, len(chains)))
    verdict = judged(chains)
    assert (shuffled.vote, shuffled.gate) == (verdict.vote, verdict.gate)
    assert Counter(shuffled.reasons) == Counter(verdict.reasons)
    assert len(shuffled.preferred) == len(verdict.preferred)


def test_decision_unanimous_query_is_kept_without_a_pair():
    verdict = judged([says("Red", number) for number in range(7)])
    assert (verdict.gate, verdict.unanimous, verdict.pairs) == ("kept", True, ())
    assert len(verdict.preferred) == 7


def test_decision_an_invalid_chain_never_votes_and_may_be_rejected():
    chains = [says("Red", number) for number in range(5)]
    verdict = judged([*chains, ("no tags", "stop"), says("Red", 9, "length")])
    assert verdict.vote.votes == (("Red", 5),)
    assert [pair.rejected_index for pair in verdict.pairs] == [5, 6]


def test_missing_chains_stay_in_the_denominator():
    verdict = judged([says("Red", number) for number in range(3)])
    assert (verdict.gate, verdict.vote.confidence) == ("below_threshold", 3 / 7)


def test_a_chain_that_only_was_cut_behind_the_same_words_makes_no_pair():
    same = says("Red")[0]
    verdict = judged([(same, "stop")] * 4 + [(same, "length")])
    assert (verdict.gate, verdict.pairs, verdict.unanimous) == ("kept", (), False)


def test_the_draw_depends_on_identity_and_nothing_else():
    texts = [str(index) for index in range(7)]
    preferred = (0, 1, 2, 3)
    drawn = {
        identity: tuple(make_pairs(texts, preferred, identity))
        for identity in [(seed, 1, f"l{i}", "colour") for seed in (0, 1) for i in range(40)]
    }
    again = {identity: tuple(make_pairs(texts, preferred, identity)) for identity in drawn}
    assert again == drawn
    chosen = Counter(pair.chosen_index for pairs in drawn.values() for pair in pairs)
    assert set(chosen) == set(preferred)
    assert min(chosen.values()) > 0.15 * sum(chosen.values())


def test_a_round_of_its_own_draws_pairs_of_its_own():
    chains = [says("Red", number) for number in range(4)] + [says("Blue")] * 3
    here = [judged(chains, f"l{i}").pairs for i in range(20)]
    there = [judged(chains, f"l{i}", replace(RULES, round_index=2)).pairs for i in range(20)]
    assert here != there


def test_a_spelled_out_control_token_is_broken_in_a_pair():
    assert without_control_tokens("a <|image_pad|> b") == "a <\u2060|image_pad|> b"
    assert without_control_tokens(says("Red")[0]) == says("Red")[0]


@given(st.lists(st.tuples(st.sampled_from(["Dress", "Shoe"]), CHAINS), max_size=8))
def test_the_funnel_accounts_for_every_chain_and_query(queries):
    funnel = FunnelCounter()
    for vertical, chains in queries:
        funnel.add(vertical, "colour", judged(chains))
    figures = funnel.funnel().to_json()
    parts = [figures["total"], *figures["by_vertical"].values(), *figures["by_attribute"].values()]
    for part in parts:
        chains, asked = part["chains"], part["queries"]
        assert chains["requested"] == sum(chains.values()) - chains["requested"]
        assert {*chains} == {"requested", "valid", *chain_losses()}
        assert chains["requested"] == 7 * asked["asked"]
        assert asked["asked"] == sum(asked[gate] for gate in Gate.declared)
        assert asked["unanimous"] + asked["paired"] <= asked["kept"]
    for unit in ("chains", "queries"):
        for name, count in figures["total"][unit].items():
            assert count == sum(part[unit][name] for part in figures["by_vertical"].values())


def test_the_funnel_names_every_loss():
    funnel = FunnelCounter()
    chains = [says("Red", 1), says("Blue"), says("Green"), ("", "stop"), says("Red", 2, "length")]
    funnel.add("Dress", "colour", judged([*chains, (says("Red")[0] + " so", "stop")]))
    total = funnel.funnel().to_json()["total"]
    lost = ("truncated", "malformed", "spilled", "out_of_schema", "missing")
    assert [total["chains"][name] for name in lost] == [1, 1, 1, 1, 1]
    assert total["queries"]["tie"] == 1


def test_more_chains_than_requested_are_refused():
    with pytest.raises(ValueError, match="requested"):
        judged([says("Red")] * 8)
