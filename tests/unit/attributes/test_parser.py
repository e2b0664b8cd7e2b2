from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.attributes import prompts
from raypipe.attributes.parser import Answer, ChainReason, parse
from raypipe.attributes.schema import Attribute

PATTERN = Attribute(
    "Dress", "pattern", "The print.", ("Floral-Print", "Floral", "None", "0"), {"Plain": "None"}
)
ANSWERS = st.text(alphabet=st.sampled_from("FloralPint- _<>/answer0|`.\n"), max_size=30)


def whole(answer: str, reasoning: str = "I see roses.") -> str:
    return f"<reasoning>{reasoning}</reasoning><answer>{answer}</answer>"


def value_of(text: str, finish_reason: str = "stop", answer_format: str = "reasoning"):
    return parse(text, finish_reason, PATTERN, answer_format)


@pytest.mark.parametrize(
    "answer",
    ["Floral-Print", "floral print", " FLORAL_PRINT\n", "Floral\u2011Print", "`Floral Print`."],
)
def test_decision_parsing_compares_after_folding(answer):
    assert value_of(whole(answer)) == Answer("Floral-Print", "ok")


def test_decision_parsing_takes_the_aliases_of_the_schema():
    assert value_of(whole("plain")) == Answer("None", "ok")


@pytest.mark.parametrize(
    "answer", ["Floral-Printed", "a Floral", "Floral or None", "loral", "", " ", "Floral, Floral"]
)
def test_decision_parsing_is_never_by_substring(answer):
    assert value_of(whole(answer)) == Answer(None, "out_of_schema")


@pytest.mark.parametrize("value", ["None", "0"])
def test_decision_none_and_zero_are_literal_values(value):
    assert value_of(whole(value)) == Answer(value, "ok")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Floral",
        "<reasoning>roses</reasoning>Floral",
        "<reasoning>roses</reasoning><answer>Floral",
        "<reasoning>roses</reasoning>Floral</answer>",
        "<reasoning>roses</reasoning></answer>Floral<answer>",
        "<reasoning>roses</reasoning><answer>Floral</answer><answer>Floral</answer>",
        "<reasoning>roses</reasoning><answer><answer>Floral</answer>",
        "<reasoning>roses</reasoning><answer>Floral</answer></answer>",
        "<reasoning>so <answer>Floral</answer></reasoning><answer>Floral</answer>",
        "<reasoning>roses</reasoning><Answer>Floral</Answer>",
    ],
)
def test_decision_parsing_wants_exactly_one_closed_answer(text):
    assert value_of(text) == Answer(None, "malformed")


@pytest.mark.parametrize(
    "text",
    [
        "<answer>Floral</answer>",
        "<reasoning>roses<answer>Floral</answer>",
        "roses</reasoning><answer>Floral</answer>",
        "<reasoning>a</reasoning><reasoning>b</reasoning><answer>Floral</answer>",
        "<answer>Floral</answer><reasoning>roses</reasoning>",
        "<reasoning>roses<answer>Floral</reasoning></answer>",
    ],
)
def test_reasoning_is_wanted_once_and_before_the_answer(text):
    assert value_of(text) == Answer(None, "malformed")


def test_answer_only_does_not_ask_for_reasoning():
    assert value_of("<answer>Floral</answer>", answer_format="answer_only").value == "Floral"
    assert value_of(whole("Floral"), answer_format="answer_only").value == "Floral"
    assert value_of("Floral", answer_format="answer_only").reason == "malformed"


def test_text_after_the_answer_makes_it_invalid():
    assert value_of(whole("Floral") + " \n").value == "Floral"
    assert value_of(whole("Floral") + " Print") == Answer(None, "spilled")


@pytest.mark.parametrize("finish_reason", ["length", "abort"])
def test_decision_truncated_chain_has_no_answer(finish_reason):
    assert value_of(whole("Floral"), finish_reason) == Answer(None, "truncated")


@given(st.sampled_from(PATTERN.values), st.text(max_size=40))
def test_what_sft_teaches_is_what_the_parser_reads(value, reasoning):
    for answer_format in ("reasoning", "answer_only"):
        text = prompts.completion(value, reasoning, answer_format)
        assert parse(text, "stop", PATTERN, answer_format) == Answer(value, "ok")


@pytest.mark.parametrize("value", ["a </answer> b", "<|im_end|>", "<|image_pad|>", "<answer>"])
def test_a_value_that_looks_like_a_tag_is_still_a_value(value):
    attribute = Attribute("v", "a", "", (value,), {})
    text = prompts.completion(value, "", "reasoning")
    assert parse(text, "stop", attribute, "reasoning") == Answer(value, "ok")


@given(ANSWERS)
def test_an_answer_is_allowed_or_has_a_reason(answer):
    parsed = value_of(whole(answer))
    assert parsed.reason in ChainReason.declared
    assert (parsed.value is None) == (parsed.reason != "ok")
    assert parsed.value is None or parsed.value in PATTERN.values


@given(st.text(max_size=200), st.sampled_from(["stop", "length"]))
def test_any_text_at_all_is_parsed(text, finish_reason):
    for answer_format, attribute in product(("reasoning", "answer_only"), (PATTERN,)):
        assert parse(text, finish_reason, attribute, answer_format).reason in ChainReason.declared


def _once_in_order(text: str, tags: tuple[str, ...]) -> list[int] | None:
    """Where the tags start, when each stands once and in this order."""
    places = [text.find(tag) for tag in tags]
    once = all(text.count(tag) == 1 for tag in tags)
    return places if once and places == sorted(places) else None


def plainly(text: str, answer_format: str) -> tuple[str | None, str]:
    """The value and the reason of a chain that ended by itself, tag by tag."""
    answer = _once_in_order(text, ("<answer>", "</answer>"))
    if answer is None:
        return None, "malformed"
    start, end = answer[0] + len("<answer>"), answer[1]
    if answer_format == "reasoning":
        reasoning = _once_in_order(text, ("<reasoning>", "</reasoning>"))
        if reasoning is None or reasoning[1] > start:
            return None, "malformed"
    if text[end + len("</answer>") :].strip():
        return None, "spilled"
    value = PATTERN.resolve(text[start:end])
    return value, "out_of_schema" if value is None else "ok"


PIECES = st.sampled_from(
    ["<reasoning>", "</reasoning>", "<answer>", "</answer>", "Floral", "plain", "<", "<answer", " "]
)
WHOLE = ["<reasoning>", "roses", "</reasoning>", "<answer>", "Floral", "</answer>"]


@st.composite
def almost_whole(draw: st.DrawFn) -> str:
    pieces = draw(st.sampled_from([WHOLE, draw(st.permutations(WHOLE))]))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(pieces)))
        pieces = [*pieces[:place], draw(PIECES), *pieces[place + draw(st.integers(0, 1)) :]]
    return "".join(pieces)


@given(almost_whole(), st.sampled_from(["reasoning", "answer_only"]))
def test_tags_are_read_as_one_by_one(text, answer_format):
    found = value_of(text, answer_format=answer_format)
    assert (found.value, found.reason) == plainly(text, answer_format)


def test_a_reasoning_may_close_with_the_first_thing_in_the_answer():
    closed = "<reasoning>roses<answer></reasoning>Floral</answer>"
    assert value_of(closed) == Answer(None, "out_of_schema")
    twice = "<reasoning>roses</reasoning><answer></reasoning>Floral</answer>"
    assert value_of(twice) == Answer(None, "malformed")
