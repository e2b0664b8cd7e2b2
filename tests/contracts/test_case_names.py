"""``tests/case_names.json`` maps names that checks outside of the repository use to what they are
called now, as "module:attribute"."""

import importlib
import json
from pathlib import Path

import pytest

NAMES: dict[str, str] = json.loads((Path(__file__).parents[1] / "case_names.json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_a_mapped_name_is_there(name: str) -> None:
    module, attribute = NAMES[name].split(":")
    assert hasattr(importlib.import_module(module), attribute)
