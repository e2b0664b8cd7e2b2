"""The Python API gives what a run gives: its votes and pairs, and TRL's loss."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import raypipe
from raypipe import api
from raypipe.attributes.schema import Attribute, AttributeSchema
from raypipe.config import load
from raypipe.embedded.schema import SCHEMA_PATH
from raypipe.errors import InputError
from raypipe.schemas import LABELS, PUBLISHED_LABELS
from raypipe.store.artifacts import Run
from raypipe.store.runs import open_run
from raypipe.training.examples import Examples
from tests.conftest import CommitRows, Row
from tests.fakes import partial_runs
from tests.fakes import tiny_models as models
from tests.fakes.catalog_files import photo
from tests.fakes.label_rows import decide, label, rule
from tests.fakes.training_steps import BETA, policy, step_of, trl_dpo, worst

FORMAT = "<reasoning>{reason}</reasoning><answer>{answer}</answer>"


@pytest.fixture(scope="module")
def schema() -> AttributeSchema:
    return raypipe.load_schema(SCHEMA_PATH)


@pytest.fixture(scope="module")
def closure(schema: AttributeSchema) -> Attribute:
    return schema.get("shoe", "closure")


def chains(*answers: str) -> list[str]:
    return [FORMAT.format(reason=f"look {n}", answer=text) for n, text in enumerate(answers)]


def test_the_package_offers_the_names_of_the_facade_and_no_others() -> None:
    assert set(raypipe.__all__) <= set(dir(raypipe))
    own = [
        name
        for name, thing in vars(api).items()
        if getattr(thing, "__module__", "") == api.__name__ and not name.startswith("_")
    ]
    assert sorted(own) == sorted(raypipe.__all__)
    assert all(getattr(raypipe, name) is getattr(api, name) for name in raypipe.__all__)
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = raypipe.no_such_name


def test_a_conversation_is_made_for_every_attribute(schema: AttributeSchema) -> None:
    names = [attribute.name for attribute in schema.attributes("shoe")]
    prompts = raypipe.build_prompts(schema, "shoe")
    conversations = raypipe.build_conversations(schema, "shoe", num_images=2)
    assert [*prompts] == [*conversations] == names
    _, user = conversations["closure"]
    assert [part["type"] for part in user["content"]] == ["image", "image", "text"]
    assert user["content"][-1]["text"] == prompts["closure"]
    with pytest.raises(InputError, match="unknown vertical 'boat'"):
        raypipe.build_prompts(schema, "boat")


def test_a_vote_counts_what_the_chains_answer(closure: Attribute) -> None:
    texts = [*chains("Velcro", "hook and loop", "Velcro", "Slip-On", "Zip"), "no tags"]
    vote = raypipe.vote(texts, closure)
    assert vote.votes == (("Velcro", 3), ("Slip-On", 1))
    assert (vote.consensus, vote.confidence) == ("Velcro", 0.5)
    assert raypipe.vote(texts, closure, num_chains=10).confidence == 0.3
    reasons = ["length", *["stop"] * 5]
    assert raypipe.vote(texts, closure, finish_reasons=reasons).votes[0] == ("Velcro", 2)
    assert raypipe.parse(texts[4], closure).reason == "out_of_schema"
    assert raypipe.parse(texts[0], closure, finish_reason="length").reason == "truncated"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_chains": 1}, "2 chains where 1 were requested"),
        ({"finish_reasons": ["stop"]}, "1 finish reasons for 2 chains"),
        ({"threshold": 1.0}, "exceeds a share of 1.0"),
    ],
)
def test_what_cannot_be_voted_on_is_one_line(
    closure: Attribute, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        raypipe.make_pairs(chains("Velcro", "Slip-On"), closure, "shoe-1", **arguments)


def test_pairs_reject_every_chain_that_does_not_answer_the_consensus(closure: Attribute) -> None:
    texts = chains("Velcro", "Velcro", "Velcro", "Slip-On", "Lace-Up")
    pairs = raypipe.make_pairs(texts, closure, "shoe-1")
    assert [pair["rejected"][0]["content"] for pair in pairs] == texts[3:]
    assert {pair["chosen"][0]["content"] for pair in pairs} <= set(texts[:3])
    assert pairs == raypipe.make_pairs(texts, closure, "shoe-1")
    assert raypipe.make_pairs(texts, closure, "shoe-1", threshold=0.6) == []
    target = raypipe.make_targets(texts[:1], closure, "shoe-1")[0]
    assert target["prompt"] == pairs[0]["prompt"]
    assert target["completion"][0] == {"role": "assistant", "content": texts[0]}


def test_images_are_squashed_as_in_a_run(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(photo(3, size=(80, 30)))
    (image,) = raypipe.load_images([tmp_path / "a.png"], size=56)
    assert (image.size, image.mode) == ((56, 56), "RGB")
    (tmp_path / "b.png").write_bytes(b"text")
    with pytest.raises(InputError, match=r"b\.png is no usable image: unknown_format"):
        raypipe.load_images([tmp_path / "b.png"])
    with pytest.raises(InputError, match="cannot read the image"):
        raypipe.load_images([tmp_path / "c.png"])


@pytest.fixture
def pairs() -> Examples:
    """Rows of two listings, not in the order of their ids."""
    made = models.examples(images=(2, 1))
    return Examples(made.rows[::-1], made.images)


def test_log_probabilities_are_those_of_a_plain_forward_pass_for_each_chain(
    pairs: Examples,
) -> None:
    model, processor = policy(), models.processor()
    with torch.no_grad():
        found = raypipe.chain_logprobs(model, processor, pairs.rows, pairs.images)
        wanted = torch.tensor(
            [[plain_logprob(model, row, side, pairs) for side in SIDES] for row in pairs.rows]
        )
    assert found.shape == (len(pairs.rows), 2)
    assert worst(found, wanted) < 1e-6


SIDES = ("chosen", "rejected")


def plain_logprob(model: Any, row: Row, side: str, pairs: Examples) -> float:
    """The log-probability of one chain, by the model and the processor as anyone calls them."""
    processor = models.processor()
    images = [Image.open(io.BytesIO(content)) for content in pairs.images[row["listing_id"]]]
    system, user = row["prompt"]
    content = [*[{"type": "image"}] * len(images), {"type": "text", "text": user["content"]}]
    turns = [system, {"role": "user", "content": content}]
    prompt = processor.apply_chat_template(turns, add_generation_prompt=True)
    whole = processor.apply_chat_template([*turns, row[side][0]])
    start = processor(text=[prompt], images=images)["input_ids"]
    inputs = processor(text=[whole], images=images, return_tensors="pt")
    tokens = inputs["input_ids"][0]
    logits = model(**inputs).logits[0].log_softmax(dim=-1)
    scored = range(len(start[0]), len(tokens))
    return sum(logits[at - 1, tokens[at]].item() for at in scored)


def test_targets_have_a_log_probability_each(pairs: Examples) -> None:
    rows = [
        {name: row[name] for name in ("listing_id", "attribute", "prompt")}
        | {"completion": row[side]}
        for row in pairs.rows
        for side in SIDES
    ]
    model, processor = policy(), models.processor()
    with torch.no_grad():
        found = raypipe.chain_logprobs(model, processor, rows, pairs.images)
        wanted = raypipe.chain_logprobs(model, processor, pairs.rows, pairs.images)
    assert found.shape == (2 * len(pairs.rows),)
    assert worst(found, wanted.flatten()) < 1e-6


def test_the_loss_and_its_gradients_are_trls(pairs: Examples, tmp_path: Path) -> None:
    wanted = step_of(trl_dpo(pairs, tmp_path, None))
    model = policy()
    loss = raypipe.dpo_loss(model, models.processor(), pairs.rows, pairs.images, beta=BETA)
    loss.backward()
    assert loss.item() == pytest.approx(wanted.loss, rel=1e-5)
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == wanted.gradients.keys()
    for name, gradient in wanted.gradients.items():
        assert worst(found[name], gradient) < 1e-5, name


def test_a_reference_may_be_given_where_the_model_has_no_adapter(pairs: Examples) -> None:
    model, processor = models.model(), models.processor()
    with pytest.raises(InputError, match="needs reference="):
        raypipe.dpo_loss(model, processor, pairs.rows, pairs.images)
    with torch.no_grad():
        other = raypipe.chain_logprobs(policy(), processor, pairs.rows, pairs.images)
        own = raypipe.chain_logprobs(model, processor, pairs.rows, pairs.images)
        loss = raypipe.dpo_loss(model, processor, pairs.rows, pairs.images, reference=other)
    gains = own - other
    margins = 0.2 * (gains[:, 0] - gains[:, 1])
    assert loss.item() == pytest.approx(-margins.sigmoid().log().mean().item(), rel=1e-4)


def test_the_model_is_as_it_was_afterwards(pairs: Examples) -> None:
    model, processor = models.model(), models.processor()
    before = model.model.language_model.config._attn_implementation
    raypipe.chain_logprobs(model, processor, pairs.rows, pairs.images)
    assert model.model.language_model.config._attn_implementation == before
    inputs = processor(text=["what is the heel?"], return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=2).shape[1] > 2


def _several_sizes(pairs: Examples, model: Any) -> tuple[Sequence[Row], Any]:
    images = {name: [*given, photo(1, size=(300, 200))] for name, given in pairs.images.items()}
    return pairs.rows, images


def _checkpointing(pairs: Examples, model: Any) -> tuple[Sequence[Row], Any]:
    model.train()
    model.gradient_checkpointing_enable()
    return pairs.rows, pairs.images


def _sliding_windows(pairs: Examples, model: Any) -> tuple[Sequence[Row], Any]:
    model.config.get_text_config().layer_types = ["sliding_attention"] * 2
    return pairs.rows, pairs.images


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda pairs, _: ([], pairs.images), "there are no rows"),
        (lambda pairs, _: (pairs.rows, {}), "images has no entry for listing-0, listing-1"),
        (_several_sizes, "images of one size are needed: these make 9, "),
        (_checkpointing, r"call model.gradient_checkpointing_disable\(\) first"),
        (_sliding_windows, "prefixes are shared in models of qwen2_vl, qwen2_5_vl"),
    ],
)
def test_what_cannot_be_scored_is_one_line(
    pairs: Examples, change: Callable[..., tuple[Sequence[Row], Any]], message: str
) -> None:
    model, processor = models.model(), models.processor()
    processor.image_processor.size = {"shortest_edge": models.side() ** 2, "longest_edge": 1 << 20}
    try:
        with pytest.raises(InputError, match=message):
            raypipe.chain_logprobs(model, processor, *change(pairs, model))
    finally:
        models.processor.cache_clear()


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``runs/local``, with nothing in it."""
    monkeypatch.chdir(tmp_path)
    return open_run(load())


def test_the_summary_of_a_run_is_read_by_name_or_path(begun: Run) -> None:
    with pytest.raises(InputError, match="has no summary yet"):
        raypipe.read_summary("local")
    partial_runs.summarise(begun)
    assert raypipe.read_summary("local").best == "round-1"
    assert raypipe.read_summary(Path("runs/local")) == raypipe.read_summary("local")
    with pytest.raises(InputError, match="there is no run at"):
        raypipe.read_summary("other")


def test_labels_are_the_newest_finished_ones(begun: Run, commit_rows: CommitRows) -> None:
    with pytest.raises(InputError, match="has no finished labels"):
        raypipe.read_labels("local")
    commit_rows(begun, "labels/000001/labels", LABELS, [label("a", "k1")])
    rows = [label("a", "k1"), label("b", "k2") | {"confidence": 0.25}]
    commit_rows(begun, "labels/000002/labels", LABELS, rows)
    for number in (1, 2):
        decide(begun, commit_rows, f"labels/00000{number}", rule(0.5))
    begun.create("labels/000003/request.json", b"{}")
    assert raypipe.read_labels("local").schema.equals(PUBLISHED_LABELS.schema)
    read = raypipe.read_labels("local", ["value", "listing_id", "probability"])
    assert read.to_pylist() == [
        {"value": "Red", "listing_id": "a", "probability": 1.0},
        {"value": None, "listing_id": "b", "probability": 0.25},
    ]
    with pytest.raises(InputError, match="labels have no column colour, but listing_id, "):
        raypipe.read_labels("local", ["colour"])
