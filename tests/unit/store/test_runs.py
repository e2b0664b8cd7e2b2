"""A run is opened when its layout on disk is the one that is read."""

import json
from pathlib import Path

import pytest

from raypipe.config import Config, resolve
from raypipe.errors import ConfigError
from raypipe.store.runs import LAYOUT, begun_run, begun_with, find_run, open_run


def configured(directory: Path) -> Config:
    return resolve({"run": {"directory": str(directory), "name": "mine"}})


def test_a_run_is_opened_again_with_what_it_was_begun_with(tmp_path: Path) -> None:
    config = configured(tmp_path)
    run = open_run(config)
    assert json.loads(run.read("run.json") or b"")["layout"] == LAYOUT
    assert open_run(config).location == begun_run(config).location == run.location
    assert begun_with(run) == config


@pytest.mark.parametrize("layout", [{}, {"layout": 1}, {"layout": LAYOUT + 1}])
def test_a_run_of_another_layout_is_one_error(tmp_path: Path, layout: dict[str, int]) -> None:
    config = configured(tmp_path)
    run = open_run(config)
    run.replace("run.json", json.dumps(layout | config.shown()).encode())
    for call in (lambda: open_run(config), lambda: find_run("mine", str(tmp_path))):
        with pytest.raises(
            ConfigError, match=r"another layout on disk .* another run\.name"
        ) as raised:
            call()
        assert "delete the directory" in str(raised.value)
