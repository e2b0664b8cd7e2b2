"""From chains to labels: answer or abstention, confidence, reasoning, the seller's word."""

import math
from typing import Any

import pyarrow as pa
import pytest

from raypipe.attributes.prompts import completion
from raypipe.attributes.schema import AttributeSchema
from raypipe.labeling.labels import Labeler, Mode, label_key
from raypipe.sampling.chains import AnsweredQuery, Chain
from raypipe.schemas import LABELS
from tests.conftest import MakeListing, Row

SHOP = AttributeSchema.from_json(
    [
        {"vertical": "Shoe", "attribute": "colour", "description": "Its colour.",
         "values": ["Red", "Blue", "Green"], "aliases": {"Crimson": "Red"}},
    ]
)  # fmt: skip


def chain(value: str, logprob: float = -4.0, tokens: int = 4, finish: str = "stop") -> Chain:
    text = completion(value, f"it looks {value}", "reasoning")
    return Chain(text, tuple(range(tokens)), logprob, finish)


def labeler(mode: Mode = "vote", num_chains: int = 4, **settings: Any) -> Labeler:
    return Labeler(
        schema=SHOP,
        mode=mode,
        num_chains=num_chains,
        answer_format="reasoning",
        policy_id="policy",
        outcome_fingerprint="fingerprint",
        **settings,
    )


def label(listing: Row, answered: AnsweredQuery, made_by: Labeler) -> Row:
    (row,) = made_by([listing], [[answered]]).to_pylist()
    return dict(row)


@pytest.fixture
def shoe(make_listing: MakeListing) -> Row:
    return make_listing("a", "pool", ["colour"])


def test_a_vote_becomes_a_label_with_its_counts(shoe: Row) -> None:
    chains = [chain("Red"), chain("Crimson", -1.0), chain("Blue"), chain("Plaid")]
    found = label(shoe, AnsweredQuery(None, chains), labeler())
    assert (found["answer"], found["reason"]) == ("Red", "answered")
    assert found["confidence"] == 0.5
    assert [(vote["value"], vote["count"]) for vote in found["votes"]] == [("Red", 2), ("Blue", 1)]
    assert (found["num_chains"], found["num_valid"]) == (4, 3)
    assert found["greedy"] is None


def test_a_value_has_the_probability_of_the_chains_that_vote_for_it(shoe: Row) -> None:
    chains = [chain("Red", -4.0), chain("Crimson", -1.0), chain("Blue", -8.0), chain("Plaid", -0.1)]
    votes = label(shoe, AnsweredQuery(None, chains), labeler())["votes"]
    assert [vote["probability"] for vote in votes] == pytest.approx(
        [math.exp(-1) + math.exp(-0.25), math.exp(-2)]
    )


def test_chains_without_an_answer_are_counted_by_their_reason(shoe: Row) -> None:
    chains = [chain("Plaid"), chain("Plaid"), chain("Red", finish="length"), chain("Blue")]
    found = label(shoe, AnsweredQuery(None, chains), labeler(num_chains=6))
    assert found["invalid"] == [
        {"reason": "truncated", "count": 1},
        {"reason": "out_of_schema", "count": 2},
        {"reason": "missing", "count": 2},
    ]
    assert found["num_valid"] + 5 == found["num_chains"]


def test_a_greedy_chain_beside_a_vote_is_evidence_and_does_not_vote(shoe: Row) -> None:
    answered = AnsweredQuery(chain("Blue", -2.0, 8), [chain("Red")] * 4)
    found = label(shoe, answered, labeler())
    assert (found["answer"], found["confidence"], found["num_valid"]) == ("Red", 1.0, 4)
    probability = pytest.approx(math.exp(-0.25))
    assert found["greedy"] == {"answer": "Blue", "reason": "ok", "probability": probability}


def test_the_reasoning_is_the_clearest_chains_that_gives_the_answer(shoe: Row) -> None:
    chains = [chain("Red", -8.0), chain("Crimson", -1.0), chain("Blue", -0.1), chain("Red", -4.0)]
    assert label(shoe, AnsweredQuery(None, chains), labeler())["reasoning"] == "it looks Crimson"


@pytest.mark.parametrize(
    ("chains", "reason"),
    [
        ([chain("Red"), chain("Blue"), chain("Red"), chain("Blue")], "tie"),
        ([chain("Plaid"), chain("Red", finish="length")], "no_valid_chain"),
        ([], "no_valid_chain"),
    ],
)
def test_without_a_winner_a_label_abstains_and_says_why(
    shoe: Row, chains: list[Chain], reason: str
) -> None:
    found = label(shoe, AnsweredQuery(None, chains), labeler())
    assert (found["answer"], found["reason"]) == (None, reason)
    assert (found["confidence"], found["reasoning"]) == (0.0, None)


def test_a_greedy_label_is_as_confident_as_its_tokens(shoe: Row) -> None:
    found = label(shoe, AnsweredQuery(chain("Blue", -2.0, 8), []), labeler("greedy", 1))
    assert found["answer"] == "Blue"
    assert found["confidence"] == pytest.approx(math.exp(-0.25))
    assert found["greedy"]["probability"] == found["confidence"]
    assert found["num_chains"] == 1
    broken = label(shoe, AnsweredQuery(chain("Plaid"), []), labeler("greedy", 1))
    assert (broken["answer"], broken["confidence"]) == (None, 0.0)
    greedy = broken["greedy"]
    assert (greedy["answer"], greedy["reason"]) == (None, "out_of_schema")


@pytest.mark.parametrize(
    ("seller", "conflict"),
    [("Blue", True), ("red", False), ("crimson", False), ("Plaid", None), (None, None)],
)
def test_a_seller_is_contradicted_only_by_another_allowed_value(
    shoe: Row, seller: str | None, conflict: bool | None
) -> None:
    shoe["queries"][0]["seller_value"] = seller
    found = label(shoe, AnsweredQuery(None, [chain("Red")] * 4), labeler())
    assert (found["seller_value"], found["seller_conflict"]) == (seller, conflict)


def test_the_key_follows_images_questions_seller_and_law(
    shoe: Row, make_listing: MakeListing
) -> None:
    def key(listing: Row, recipe: str = "recipe") -> str:
        made_by = Labeler(SHOP, "vote", 4, "reasoning", "policy", recipe)
        return str(label(listing, AnsweredQuery(None, []), made_by)["label_key"])

    same = make_listing("a", "pool", ["colour"])
    assert key(shoe) == key(same)
    keys = {key(shoe), key(shoe, "another recipe")}
    for column, value in (("prompt", "another"), ("seller_value", "Red"), ("options", ["Red"])):
        changed = make_listing("a", "pool", ["colour"])
        changed["queries"][0][column] = value
        keys.add(key(changed))
    changed = make_listing("a", "pool", ["colour"]) | {"image_hashes": ["another"]}
    keys.add(key(changed))
    aliased = SHOP.to_json()
    aliased[0]["aliases"]["Ruby"] = "Red"
    other = Labeler(AttributeSchema.from_json(aliased), "vote", 4, "reasoning", "policy", "recipe")
    keys.add(str(label(shoe, AnsweredQuery(None, []), other)["label_key"]))
    assert len(keys) == 7


def test_a_prepared_listings_own_source_key_has_the_last_word(shoe: Row) -> None:
    found = label(shoe | {"source_key": "known"}, AnsweredQuery(None, []), labeler())
    assert found["label_key"] == label_key("known", "fingerprint", SHOP.attributes("Shoe"))
    assert isinstance(pa.Table.from_pylist([found], schema=LABELS.schema), pa.Table)
