"""What a constrained engine may write."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.attributes.prompts import completion
from raypipe.sampling.engine import answer_pattern

OPTIONS = ("Red", "A-line (full)", "3.5", "None")


@pytest.mark.parametrize("option", OPTIONS)
def test_every_allowed_answer_can_be_written(option: str) -> None:
    for answer_format in ("reasoning", "answer_only"):
        text = completion(option, "it shows", answer_format)
        assert re.fullmatch(answer_pattern(OPTIONS, answer_format), text)


@given(st.text(max_size=12))
def test_nothing_else_can(value: str) -> None:
    text = f"<answer>{value}</answer>"
    allowed = re.fullmatch(answer_pattern(OPTIONS, "answer_only"), text) is not None
    assert allowed == (value in OPTIONS)


@pytest.mark.parametrize(
    "text",
    [
        "<answer>Red</answer>",
        "<reasoning></reasoning><answer>Red</answer>",
        "<reasoning>a <b> tag</reasoning><answer>Red</answer>",
        "<reasoning>why</reasoning><answer>Red</answer> and more",
    ],
)
def test_a_constrained_chain_has_its_reasoning_first_and_nothing_after(text: str) -> None:
    assert not re.fullmatch(answer_pattern(OPTIONS, "reasoning"), text)
