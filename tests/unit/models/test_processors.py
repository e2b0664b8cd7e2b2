"""What a processor lacks is said by name, before anything is started."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from raypipe.attributes.prompts import messages
from raypipe.embedded import nano
from raypipe.errors import ConfigError
from raypipe.models.families import model_settings
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


def test_code_beside_a_checkpoint_never_runs_not_even_when_a_user_would_say_yes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\ny\n"))
    place = tmp_path / "model"
    code = (
        f"open({str(tmp_path / 'ran')!r}, 'w')\nfrom transformers import PretrainedConfig as Own\n"
    )
    shutil.copytree(nano.NANO_PATH, place)
    (place / "own.py").write_text(code)
    for name, auto in (("config.json", "AutoConfig"), ("processor_config.json", "AutoProcessor")):
        asked = json.loads((place / name).read_text())
        asked |= {"model_type": "own", "processor_class": "Own", "auto_map": {auto: "own.Own"}}
        (place / name).write_text(json.dumps(asked))
    with pytest.raises(ConfigError, match="cannot be loaded"):
        model_settings(str(place), None)
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_processor(str(place), None)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("value", ["abc", None, -1])
def test_a_configuration_that_is_malformed_is_refused_by_its_path(
    tmp_path: Path, value: object
) -> None:
    settings = json.loads((nano.NANO_PATH / "config.json").read_text())
    settings["text_config"]["num_hidden_layers"] = value
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=rf"model\.path={tmp_path} cannot be loaded: .*layer"):
        model_settings(str(tmp_path), None)


@pytest.mark.parametrize("content", ["[]", "null", "{"])
def test_a_malformed_file_of_a_processor_is_refused_by_the_models_path(
    tmp_path: Path, content: str
) -> None:
    shutil.copytree(nano.NANO_PATH, tmp_path, dirs_exist_ok=True)
    (tmp_path / "processor_config.json").write_text(content)
    with pytest.raises(ConfigError, match=rf"model\.path={tmp_path}: its processor cannot be"):
        load_processor(str(tmp_path), None)
