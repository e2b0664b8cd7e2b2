"""Every configuration key that changes an outcome is in the fingerprint of a stage.

Each stage is called through its public function, up to the point where it looks for a commit; the
fingerprint that it looks for is compared between two configurations that differ in one key.
"""

import ast
import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_origin
from unittest.mock import Mock

import pytest

import raypipe.catalog.stage as catalog
import raypipe.consensus.stage as consensus
import raypipe.consensus.subset as subset
import raypipe.evaluation.labels as label_quality
import raypipe.evaluation.stage as evaluation
import raypipe.sampling.stage as sampling
import raypipe.training.stage as training
from raypipe.annotation.ledger import key_of
from raypipe.config import Config, Section, key_names, resolve
from raypipe.config.section import Stage
from raypipe.labeling.driver import LabelingDriver
from raypipe.models.policies import ADAPTER_WEIGHTS, policy
from raypipe.sampling import endpoint
from raypipe.store.artifacts import Artifact, Run
from raypipe.store.manifest import Commit, plain_fingerprint

ROOT = Path(__file__).resolve().parents[2]
# What holds a key that chooses what the stages get. Adding one here says that a committed artifact
# cannot be reused wrongly after the key has changed: be sure.
HELD_BY = {
    "catalog.listings": "the files' digests",
    "catalog.attribute_schema": "the schema's digest",
    "catalog.seed": "the files' digests",
    "catalog.truth": "the files' digests",
    "rounds.start": "the id of the policy that a training starts from",
    "rounds.pool_slices": "the slice that sampling gets",
    "rounds.max_anchor_drop": "the policy that the next round starts from; decided on every call",
    "rounds.alarm": "decided on every call",
    "rounds.alarm_confidence_rise": "decided on every call",
    "rounds.alarm_entropy_fall": "decided on every call",
    "labeling.policy": "the policy's id",
    "labeling.listings": "the listings' digests",
    "labeling.check_image_files": "the digests of image files",
    "labeling.relabel_versions": "the versions that a label version is made for",
    "evals.policy": "the policy's id",
    "evals.listings": "the listings' digest",
    "evals.truth": "the truth's digest",
    "annotation.choose": "the questions that are asked",
    "annotation.listings_per_vertical": "the questions that are asked",
    "annotation.candidates_per_vertical": "the questions that are asked",
    "annotation.image_size": "the digests of a question's images",
    "annotation.max_tokens": "each reply, which keeps the limit that it was asked with",
}
UPSTREAM_OF_ALL = (
    *(f"catalog/{name}" for name in ("seed", "truth", "listings")),
    *(f"sft/{name}" for name in ("adapter", "chains", "consensus", "pairs")),
    *(f"labels/1/{name}" for name in ("calibration_run", "calibration")),
)


class NotCommittedError(Exception):
    """A stage has looked for its commit, and there is none."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run in which everything that the stages build on is committed, without rows."""
    run = Run(str(tmp_path_factory.mktemp("run")))
    names = ("vertical", "attribute", "description", "values", "aliases")
    entry = dict(zip(names, ("Shoe", "heel", "Which heel?", ["Flat", "High"], {}), strict=True))
    for name in UPSTREAM_OF_ALL:
        attempt = run.artifact(name).attempt({})
        attempt.write_json("attribute_schema.json", [entry])
        attempt.write_file(ADAPTER_WEIGHTS, b"adapter")
        attempt.commit()
    return run


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Config:
    model = tmp_path_factory.mktemp("models") / "one"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"base")
    shutil.copytree(model, model.with_name("two"))
    labeling = {"policy": "sft"}
    return resolve({"model": {"path": str(model)}, "labeling": labeling})


@pytest.fixture(scope="module")
def looked_for() -> Iterator[dict[str, dict[str, Any]]]:
    """The fingerprints that stages look for, by artifact."""
    found: dict[str, dict[str, Any]] = {}

    def find_commit(self: Artifact, fingerprint: Mapping[str, Any], **_: bool) -> Commit:
        found[self.name] = plain_fingerprint(fingerprint)
        commit = self.commit()
        if commit is None:
            raise NotCommittedError
        return commit

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Artifact, "find_commit", find_commit)
        yield found


@pytest.fixture(scope="module")
def before(base: Config, run: Run, looked_for: dict[str, Any]) -> dict[str, Any]:
    """The fingerprints of the base configuration."""
    return fingerprints(base, run, looked_for)


def stages(config: Config, run: Run) -> Iterator[Callable[[], object]]:
    """The public function of every stage."""
    files, schema = Mock(digest=lambda *_: {}), Mock(to_json=dict)
    sft = policy(run, config.model, "sft")
    yield lambda: catalog.run(config, run)
    yield lambda: catalog.run_labeled(config, run, schema=schema, listings=files, truth=files)
    yield lambda: sampling.run(config, run, policy=sft, scope="greedy", round_index=None)
    yield lambda: sampling.run(config, run, policy=sft, scope="sampled", round_index=1)
    yield lambda: endpoint.run(config, run, scope="endpoint")
    yield lambda: consensus.run(config, run, scope="voted", round_index=1, chains_of="sft")
    yield lambda: subset.select(config, run, scope="part", source="sft", selection=subset.Subset())
    yield lambda: training.run_sft(config, run, name="new-sft")
    yield lambda: training.run_round(
        config, run, name="round-1", round_index=1, start="sft", source="sft", reference="sft"
    )
    yield lambda: evaluation.run(config, run, scope="sft", with_consensus=True)
    yield lambda: evaluation.run(
        config, run, scope="vote", with_consensus=False, consensus_of="sft", vote_of="sft"
    )
    yield lambda: label_quality.calibrate(config, run, calibration_run="labels/1", scope="labels/2")
    yield lambda: label_quality.measure_quality(
        config, run, calibration_run="labels/1", scope="labels/1"
    )
    console = Mock(run_stage=lambda name, work: work())
    yield LabelingDriver(config, run, console).go


def fingerprints(config: Config, run: Run, looked_for: dict[str, Any]) -> dict[str, Any]:
    looked_for.clear()
    for call in stages(config, run):
        with contextlib.suppress(NotCommittedError):
            call()
    # A label's fingerprint names its directory.
    named = {
        "labels/calibration_run" if name.endswith("/calibration_run") else name: value
        for name, value in looked_for.items()
    }
    shards = LabelingDriver(config, run, Mock(run_stage=lambda name, work: work())).shard_recipe
    reply = key_of(config, "prompt", [b"image"])
    return named | {"labels/shards": shards, "annotation/reply": reply}


def leaves(kind: type[Section] = Config, prefix: str = "") -> Iterator[tuple[type[Section], str]]:
    """Every key that has a value of its own: its section and its dotted name."""
    for name, field in kind.model_fields.items():
        inner = [
            part
            for part in (field.annotation, *get_args(field.annotation))
            if isinstance(part, type) and issubclass(part, Section)
        ]
        for section in inner:
            yield from leaves(section, f"{prefix}{name}.")
        if not inner:
            yield kind, prefix + name


def mark_of(section: type[Section], key: str) -> str:
    extra = section.model_fields[key.rpartition(".")[2]].json_schema_extra
    if isinstance(extra, dict):
        for mark in ("resource", "upstream"):
            if extra.get(mark):
                return mark
    return "outcome"


def unclaimed(config: type[Config]) -> list[str]:
    """Keys that change an outcome and of which no stage's fingerprint knows."""
    return [
        key
        for section, key in leaves(config)
        if mark_of(section, key) == "outcome" and not section.stages_of(key.rpartition(".")[2])
    ]


def changed(config: Any, key: str) -> Any:
    """The configuration with another value of a key, not validated."""
    name, _, rest = key.partition(".")
    value = getattr(config, name)
    if rest:
        other = changed(value, rest)
    elif key == "path":
        other = str(Path(value).with_name("two"))
    else:
        other = another(type(config).model_fields[name].annotation, value)
    return config.model_copy(update={name: other})


def another(kind: Any, value: Any) -> Any:
    if get_origin(kind) is Literal:
        return next(choice for choice in get_args(kind) if choice != value)
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return value / 2 + 0.01
        case str():
            return f"{value}-other"
        case tuple():
            return (*value, value[-1] if value else "other")
        case dict():
            return {**value, "other": "1"}
    types = {choice: choice(1) for choice in (bool, int, float, str) if choice in get_args(kind)}
    return next(iter(types.values()))


OUTCOME = [key for section, key in leaves() if mark_of(section, key) == "outcome"]
RESOURCES = [key for section, key in leaves() if mark_of(section, key) == "resource"]


def test_every_key_is_walked() -> None:
    names = set(key_names(Config))
    sections = {name.rpartition(".")[0] for name in names} - {""}
    assert {key for _, key in leaves()} == names - sections


def test_every_key_has_a_stage_or_a_mark() -> None:
    assert unclaimed(Config) == []
    chosen = {key for section, key in leaves() if mark_of(section, key) == "upstream"}
    assert chosen == HELD_BY.keys()


def test_a_key_that_no_stage_takes_is_found() -> None:
    class Extra(Section):
        width: int = 1

    class Taken(Extra):
        stages: ClassVar[tuple[Stage, ...]] = ("consensus",)

    class Wider(Config):
        extra: Extra = Extra()
        taken: Taken = Taken()

    assert unclaimed(Wider) == ["extra.width"]
    assert Wider().fingerprint_keys("consensus")["taken.width"] == 1


def test_every_name_of_a_stage_is_used() -> None:
    used = {stage for section, key in leaves() for stage in section.stages_of(key.split(".")[-1])}
    assert used == set(get_args(Stage))


@pytest.mark.parametrize("key", OUTCOME)
def test_a_key_changes_the_fingerprint_of_a_stage(
    key: str, before: dict[str, Any], base: Config, run: Run, looked_for: dict[str, Any]
) -> None:
    after = fingerprints(changed(base, key), run, looked_for)
    assert before != after


def test_a_resource_changes_no_fingerprint(
    before: dict[str, Any], base: Config, run: Run, looked_for: dict[str, Any]
) -> None:
    other = base
    for key in RESOURCES:
        other = changed(other, key)
    engine = {"max_num_seqs": 3, "gpu_memory_utilization": 0.5}
    faster = other.sampling.model_copy(update={"engine": engine})
    other = other.model_copy(update={"sampling": faster})
    assert fingerprints(other, run, looked_for) == before


@pytest.mark.parametrize("key", ["sampling.num_chains", "sampling.temperature", "run.seed"])
def test_a_greedy_pass_is_kept_when_sampling_changes(
    key: str, before: dict[str, Any], base: Config, run: Run, looked_for: dict[str, Any]
) -> None:
    after = fingerprints(changed(base, key), run, looked_for)
    assert after["greedy/chains"] == before["greedy/chains"]
    assert after["sampled/chains"] != before["sampled/chains"]


def test_sft_and_sampling_are_shared_by_arms_of_a_sweep(
    before: dict[str, Any], base: Config, run: Run, looked_for: dict[str, Any]
) -> None:
    for key in ("training.method", "training.label_smoothing", "consensus.threshold"):
        after = fingerprints(changed(base, key), run, looked_for)
        shared = ("catalog/listings", "new-sft/adapter", "greedy/chains", "sampled/chains")
        assert all(after[name] == before[name] for name in shared)


def test_no_stage_lists_keys_by_hand() -> None:
    keys = {key for _, key in leaves()}
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value}"
        for path in sorted((ROOT / "raypipe").rglob("*.py"))
        if path.parent.name not in ("config", "ingest")  # where configurations are written
        for mapping in ast.walk(ast.parse(path.read_text()))
        if isinstance(mapping, ast.Dict)
        for node in mapping.keys
        if isinstance(node, ast.Constant) and node.value in keys
    ]
    assert found == []
