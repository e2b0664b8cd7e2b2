"""What a processor lacks is said by name, before anything is started."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from raypipe.attributes.prompts import messages
from raypipe.embedded import nano
from raypipe.errors import ConfigError
from raypipe.models.processors import check_processor, load_processor
from tests.fakes import tiny_models as models

TURNS = messages("which one?", 1, "reasoning")

LATER_TURNS = "{% for m in messages[1:] %}{{ m['content'][-1]['text'] }}<|image_pad|>{% endfor %}"


def with_template(template: str | None) -> Any:
    made = nano.build_processor()
    made.tokenizer.chat_template = template
    return made


def test_a_processor_of_a_known_family_is_taken() -> None:
    check_processor(models.processor("qwen3_vl"), "here", TURNS)
    check_processor(load_processor(str(nano.NANO_PATH), None), "here", TURNS)


def test_a_language_model_reads_no_images() -> None:
    with pytest.raises(ConfigError, match=r"model\.path=here has no image processor"):
        check_processor(nano.build_tokenizer(), "here", TURNS)


def test_a_base_model_has_no_chat_template() -> None:
    with pytest.raises(ConfigError, match=r"model\.path=here has no chat template"):
        check_processor(with_template(None), "here", TURNS)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ raise_exception('no system role') }}", "does not take.*no system role"),
        (LATER_TURNS, "leaves out the system's text$"),
        ("{{ messages }}", "leaves out the user's image"),
        ("<|image_pad|>", "leaves out the system's text and the user's text"),
    ],
)
def test_a_template_that_loses_part_of_a_prompt_is_refused(template: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_processor(with_template(template), "here", TURNS)


def test_a_processor_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    shutil.copy(nano.NANO_PATH / "config.json", tmp_path)
    with pytest.raises(ConfigError, match=rf"model\.path={tmp_path}: its processor cannot be"):
        load_processor(str(tmp_path), None)
