"""What a processor lacks is said by name, before anything is started."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from raypipe.embedded import nano
from raypipe.errors import ConfigError
from raypipe.models.processors import check_processor, load_processor
from tests.fakes import tiny_models as models


def with_template(template: str | None) -> Any:
    made = nano.build_processor()
    made.tokenizer.chat_template = template
    return made


def test_a_processor_of_a_known_family_is_taken() -> None:
    check_processor(models.processor("qwen3_vl"), "here")
    check_processor(load_processor(str(nano.NANO_PATH), None), "here")


def test_a_language_model_reads_no_images() -> None:
    with pytest.raises(ConfigError, match=r"model\.path=here has no image processor"):
        check_processor(nano.build_tokenizer(), "here")


def test_a_base_model_has_no_chat_template() -> None:
    with pytest.raises(ConfigError, match=r"model\.path=here has no chat template"):
        check_processor(with_template(None), "here")


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ raise_exception('no system role') }}", "takes no system turn.*no system role"),
        ("{% for m in messages[1:] %}{{ m['content'] }}<|image_pad|>{% endfor %}", "the system"),
        ("{{ messages }}", "leaves out the image"),
        ("<|image_pad|>", "leaves out the system turn and the question"),
    ],
)
def test_a_template_that_loses_part_of_a_prompt_is_refused(template: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_processor(with_template(template), "here")


def test_a_processor_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    shutil.copy(nano.NANO_PATH / "config.json", tmp_path)
    with pytest.raises(ConfigError, match=rf"model\.path={tmp_path}: its processor cannot be"):
        load_processor(str(tmp_path), None)
