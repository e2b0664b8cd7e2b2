"""A broken JSON file of a run is one line with the documented exit code, whoever reads it."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.annotation.ledger import Ledger
from raypipe.cli.main import main
from raypipe.config import Config, ModelConfig, load
from raypipe.errors import EXIT_INPUT, ArtifactError
from raypipe.labeling.label_versions import label_versions, open_label_version, unfinished
from raypipe.models.policies import policy
from raypipe.report.run_data import read_record
from raypipe.runtime.tracking import tracked
from raypipe.store.artifacts import Run
from raypipe.store.documents import parse_document, parse_object
from raypipe.store.runs import LAYOUT, begun_with
from tests.fakes.documents import summary_json

WHOLE = {
    "summary.json": json.dumps(summary_json()).encode(),
    "run.json": b'{"layout": 3, "run": {"name": "local"}}',
    "results.json": b'{"version": 1}',
    "tracking.json": b'{"wandb": {"id": "a", "known": []}}',
    "annotation/replies/ab/abc.json": b'{"reply": {}, "form": "json"}',
    "labels/000001/decision.json": b'{"digest": "0123456789ab"}',
}
NESTED = b'{"a":' * 100_000
BROKEN = {
    "empty": b"",
    "zeros": bytes(40),
    "not UTF-8": b'{"best": "\xff\xfe"}',
    "nested": NESTED,
    "nested list": b"[" * 100_000,
    "a list": b'["best"]',
    "a number": b"3",
    "null": b"null",
    "text": b'"best"',
    "a huge number": b'{"best": ' + b"9" * 5000 + b"}",
}
READERS: dict[str, Callable[[Run, Config], object]] = {
    "best": lambda run, config: policy(run, config.model, "best"),
    "record": lambda run, _: read_record(run),
    "begun": lambda run, _: begun_with(run),
    "ledger": lambda run, _: Ledger(run).replies,
}
OF = {
    "best": "summary.json",
    "record": "summary.json",
    "begun": "run.json",
    "ledger": "annotation/replies/ab/abc.json",
}


def assert_one_line(error: BaseException, path: str) -> None:
    assert isinstance(error, ArtifactError)
    assert error.exit_code == EXIT_INPUT
    assert path in str(error)
    assert "\n" not in str(error)
    assert len(str(error)) < 700


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_document_is_one_line(run: Run, reader: str, content: bytes) -> None:
    run.replace(OF[reader], content)
    with pytest.raises(ArtifactError) as raised:
        READERS[reader](run, load(None))
    assert_one_line(raised.value, OF[reader])


@pytest.mark.parametrize("name", WHOLE)
def test_a_document_that_is_cut_anywhere_is_told_by_status_and_report(
    run: Run, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run.create("run.json", json.dumps({"layout": LAYOUT} | load(None).shown()).encode())
    whole = WHOLE[name]
    for cut in (0, 1, len(whole) // 2, len(whole) - 1):
        run.replace(name, whole[:cut])
        assert main(["status", run.location, "--verify"]) == EXIT_INPUT
        shown = capsys.readouterr().out
        assert name.rpartition("/")[2] in shown.replace("\n", "")
        if name in ("summary.json", "run.json", "results.json"):
            assert main(["report", run.location]) == EXIT_INPUT
            assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_tracker_that_cannot_remember_is_left_out_with_a_reason(
    run: Run, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make() -> None:
        run.read_json("tracking.json", "delete it")
        pytest.fail("nobody noticed")

    said: list[str] = []
    run.replace("tracking.json", content)
    monkeypatch.setattr("raypipe.runtime.tracking._maker", lambda *_: make)
    with tracked(load(None, ["run.report_to=[tensorboard]"]), run, said.append):
        pass
    assert len(said) == 1
    assert "tracking.json is unreadable" in said[0]


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_request_is_nobodys_to_resume_and_its_number_is_not_taken(
    run: Run, content: bytes
) -> None:
    asked = {"recipe": "x", "listings": 1}
    assert open_label_version(run, asked).scope == "labels/000001"
    assert open_label_version(run, asked | {"listings": 2}).scope == "labels/000002"
    run.replace("labels/000002/request.json", content)
    assert unfinished(run, {"recipe": "x"}) is None
    assert open_label_version(run, asked).scope == "labels/000001"
    assert open_label_version(run, asked | {"listings": 2}).scope == "labels/000003"
    assert run.read("labels/000002/request.json") == content


def test_the_number_of_a_deleted_generation_goes_to_no_other_request(run: Run) -> None:
    for number in range(3):
        open_label_version(run, {"n": number})
    run.filesystem.delete_dir(run.path("labels/000001"))
    assert open_label_version(run, {"n": 9}).scope == "labels/000004"
    run.filesystem.delete_file(run.path("labels/000004/request.json"))
    run.create("labels/000004/labels/data/x", b"rows of {n: 9}")
    assert open_label_version(run, {"n": 10}).scope == "labels/000005"
    assert label_versions(run)[-1] == "labels/000005"


@given(st.binary() | st.recursive(st.none() | st.text(), st.lists).map(repr).map(str.encode))
def test_any_bytes_are_an_object_or_one_line(content: bytes) -> None:
    try:
        assert isinstance(parse_object(content, "a.json"), dict)
    except ArtifactError as error:
        assert_one_line(error, "a.json")


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.booleans())))
def test_what_is_whole_is_read_as_it_was_written(values: dict[str, object]) -> None:
    assert parse_object(json.dumps(values).encode(), "a.json") == values
    assert parse_document(json.dumps([values]).encode(), "a.json") == [values]


def test_nested_json_of_an_artifact_is_an_artifact_error(run: Run) -> None:
    attempt = run.artifact("sft/evaluation").attempt({})
    attempt.write_file("metrics.json", NESTED)
    attempt.commit()
    with pytest.raises(ArtifactError, match="nested too deeply"):
        run.artifact("sft/evaluation").read_json("metrics.json")


SHAPES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["to", "reason"]), inner),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(["best", "pairs", "alarm", "comparison", "stages"]), SHAPES))
def test_a_summary_of_any_shape_names_a_policy_or_is_one_line(
    tmp_path_factory: pytest.TempPathFactory, summary: dict[str, object]
) -> None:
    run = Run(str(tmp_path_factory.mktemp("run")))
    run.replace("summary.json", json.dumps(summary).encode())
    try:
        name = policy(run, ModelConfig(path="embedded:nano"), "best").name
        assert name == summary["best"] or "/" in str(summary["best"])
    except ArtifactError as error:
        assert_one_line(error, "summary.json")
