"""Data-parallel training on Ray Train: the same adapter however many workers, and after a kill."""

import json
import os
import signal
import struct
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from tensorboardX.proto import event_pb2

from raypipe import config as configuration
from raypipe.attributes.prompts import completion
from raypipe.catalog import stage as catalog
from raypipe.config import Config
from raypipe.errors import NonFiniteLossError
from raypipe.schemas import CHAINS, CONSENSUS, LISTINGS, PAIRS, REFERENCE
from raypipe.store.artifacts import Attempt, Run
from raypipe.store.manifest import Commit
from raypipe.training import stage as training
from tests.conftest import CommitRows, Row
from tests.fakes.small_run import SMALL

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("local_ray")]
NUM_PAIRS, BATCH_SIZE = 48, 4
NUM_STEPS = NUM_PAIRS // BATCH_SIZE


@pytest.fixture(scope="module")
def listings(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """The rendered pool."""
    run = Run(str(tmp_path_factory.mktemp("catalog")))
    catalog.run(settings(), run)
    rows = run.artifact("catalog/listings", LISTINGS).read().to_pylist()
    return [row for row in rows if row["split"] == "pool"]


def settings(*overrides: str) -> Config:
    own = (f"training.batch_size={BATCH_SIZE}", "training.learning_rate=1e-3", *overrides)
    return configuration.load(None, (*SMALL, *own))


def paired(directory: Path, listings: list[Row], commit_rows: CommitRows) -> Run:
    """A run as it is when its first round begins from the base model: the last option wins."""
    run = Run(str(directory))
    rows: list[Row] = []
    left = NUM_PAIRS
    for listing in listings:
        for query in listing["queries"]:
            pairs = [
                {
                    "chosen": completion(query["options"][-1], "as it should be", "reasoning"),
                    "rejected": completion(wrong, "as it should not be", "reasoning"),
                    "chosen_index": 0,
                    "rejected_index": index,
                }
                for index, wrong in enumerate(query["options"][: min(2, left)], start=1)
            ]
            left -= len(pairs)
            if pairs:
                key = {"listing_id": listing["listing_id"], "attribute": query["attribute"]}
                rows.append(key | {"prompt": query["prompt"], "margin": 0.5, "pairs": pairs})
    commit_rows(run, "catalog/listings", LISTINGS, listings)
    commit_rows(run, "pretrained/pairs", PAIRS, rows)
    for name, table in (("chains", CHAINS), ("consensus", CONSENSUS)):
        commit_rows(run, f"pretrained/{name}", table)
    return run


def trained(run: Run, *overrides: str) -> Commit:
    return training.run_round(
        settings(*overrides),
        run,
        name="round-1",
        round_index=1,
        start="pretrained",
        source="pretrained",
        reference="pretrained",
    )


def weights(run: Run) -> dict[str, torch.Tensor]:
    directory = run.artifact("round-1/adapter").local_directory()
    return load_file(directory / "adapter_model.safetensors")


def logged(run: Run) -> list[dict[str, float]]:
    content = run.artifact("round-1/adapter").read_file("training.jsonl").decode()
    return [json.loads(line) for line in content.splitlines()]


def logged_steps(run: Run) -> list[float]:
    return [row["step"] for row in logged(run)]


def losses(run: Run) -> list[float]:
    return [row["loss"] for row in logged(run)]


@dataclass(frozen=True)
class Trained:
    run: Run
    commit: Commit


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, listings: list[Row]) -> Trained:
    """Two workers, ZeRO 1, nobody killed."""
    from tests.conftest import commit_rows

    run = paired(tmp_path_factory.mktemp("two"), listings, commit_rows.__wrapped__())
    return Trained(run, trained(run))


def apart(one: Run, other: Run) -> float:
    """How far two trained adapters lie apart: the norm of the difference over that of B.

    Not the largest difference: Adam blows up the rounding of a weight with hardly a gradient.
    """
    mine, theirs = (
        torch.cat([w.flatten() for name, w in sorted(weights(run).items()) if "lora_B" in name])
        for run in (one, other)
    )
    return float((mine - theirs).norm() / mine.norm())


def test_a_training_takes_its_steps_and_moves_the_adapter(undisturbed: Trained) -> None:
    counts = undisturbed.commit.counts
    assert (counts["num_steps"], counts["num_examples"]) == (NUM_STEPS, NUM_PAIRS)
    assert logged_steps(undisturbed.run) == list(range(1, NUM_STEPS + 1))
    assert all(row["grad_norm"] > 0 for row in logged(undisturbed.run))
    moved = [name for name, w in weights(undisturbed.run).items() if "lora_B" in name and w.any()]
    assert len(moved) == len(weights(undisturbed.run)) // 2


@pytest.mark.parametrize(
    "overrides",
    [
        ("cluster.num_train_workers=1",),
        ("cluster.zero_stage=1", "cluster.gradient_checkpointing=true"),
        ("cluster.zero_stage=2", "cluster.tokens_per_pack=600"),
    ],
    ids=["one worker", "zero 1, checkpointing", "zero 2, small packs"],
)
def test_the_cluster_does_not_change_what_is_learned(
    undisturbed: Trained,
    listings: list[Row],
    tmp_path: Path,
    commit_rows: CommitRows,
    overrides: tuple[str, ...],
) -> None:
    run = paired(tmp_path, listings, commit_rows)
    trained(run, *overrides)
    assert apart(undisturbed.run, run) < 1e-4
    assert losses(run) == pytest.approx(losses(undisturbed.run), rel=1e-4)


def test_trls_own_trainer_takes_as_many_steps_on_the_same_pairs(
    undisturbed: Trained, listings: list[Row], tmp_path: Path, commit_rows: CommitRows
) -> None:
    run = paired(tmp_path, listings, commit_rows)
    commit = trained(run, "training.step=stock")
    assert commit.counts["num_steps"] == NUM_STEPS
    assert logged_steps(run) == list(range(1, NUM_STEPS + 1))
    # Other pairs meet in a step, so the adapter is another one; it learns the same thing.
    for learned in (losses(run), losses(undisturbed.run)):
        assert learned[-1] < 0.9 * learned[0]


def test_a_killed_worker_goes_on_from_the_newest_whole_checkpoint_to_the_same_adapter(
    undisturbed: Trained,
    listings: list[Row],
    tmp_path: Path,
    commit_rows: CommitRows,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The newest of two checkpoints is damaged when the worker dies."""
    run = paired(tmp_path, listings, commit_rows)
    killed: list[int] = []
    watcher = threading.Thread(target=kill_after_a_checkpoint, args=(run, killed))
    watcher.start()
    commit = trained(run, "cluster.checkpoint_steps=2")
    watcher.join()
    assert killed, "training ended before there was anything to kill"
    passed_over = [text for text in caplog.messages if "is passed over" in text]
    assert any("model_states.pt is not what was written" in text for text in passed_over)
    assert commit.counts["num_steps"] == NUM_STEPS
    assert logged_steps(run) == list(range(1, NUM_STEPS + 1))
    same = undisturbed.run.artifact("round-1/adapter").local_directory()
    assert (same / "adapter_model.safetensors").read_bytes() == (
        run.artifact("round-1/adapter").local_directory() / "adapter_model.safetensors"
    ).read_bytes()
    first, second = (steps_of(path) for path in event_files(run))
    assert first[0] == 1
    # A killed writer may have kept its last events to itself.
    assert second[0] > 1, "the second try began again from nothing"
    assert second[-1] == NUM_STEPS


def test_an_adapter_that_was_handed_over_is_not_trained_again_when_the_driver_was_killed(
    listings: list[Row], tmp_path: Path, commit_rows: CommitRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = paired(tmp_path, listings, commit_rows)

    def killed(*_: object, **__: object) -> Commit:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Attempt, "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(run, "cluster.num_train_workers=1")
    # With another number of workers it is as good.
    commit = trained(run)
    assert commit.counts["num_steps"] == NUM_STEPS
    assert logged_steps(run) == list(range(1, NUM_STEPS + 1))
    files = run.artifact("round-1/adapter").local_directory().iterdir()
    assert sorted(path.name for path in files) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "training.jsonl",
    ]
    assert len(event_files(run)) == 1


def test_fewer_pairs_than_a_batch_are_one_step_that_changes_the_adapter(
    listings: list[Row], tmp_path: Path, commit_rows: CommitRows
) -> None:
    run = paired(tmp_path, listings, commit_rows)
    commit = trained(run, f"training.batch_size={2 * NUM_PAIRS}", "cluster.num_train_workers=1")
    assert commit.counts["num_steps"] == 1
    assert commit.counts["last_learning_rate"] == pytest.approx(1e-3)
    assert "unchanged" not in commit.counts
    assert any(w.any() for name, w in weights(run).items() if "lora_B" in name)


def test_a_loss_that_is_not_a_number_refuses_the_round_and_names_the_query(
    undisturbed: Trained, listings: list[Row], tmp_path: Path, commit_rows: CommitRows
) -> None:
    run = paired(tmp_path, listings, commit_rows)
    reference = undisturbed.run.artifact("pretrained/reference", REFERENCE)
    rows = reference.read().to_pylist()
    rows[0]["chains"][0]["logprob"] = float("nan")
    spoiled = run.artifact("pretrained/reference", REFERENCE)
    attempt = spoiled.attempt(reference.require_commit().fingerprint)
    attempt.write(pa.Table.from_pylist(rows, REFERENCE.schema))
    attempt.commit()
    query = f"{rows[0]['listing_id']}/{rows[0]['chains'][0]['attribute']}"
    with pytest.raises(NonFiniteLossError, match=rf"at step \d+, in {query}.*adapter before"):
        trained(run)
    assert run.artifact("round-1/adapter").commit() is None


def kill_after_a_checkpoint(run: Run, killed: list[int]) -> None:
    """SIGKILL one training worker as soon as Ray Train has two checkpoints on record, and let a
    crash leave a hole in the newer one."""
    deadline = time.monotonic() + 300
    storage = Path(run.path(".training", "round-1"))
    while time.monotonic() < deadline and not killed:
        if any(map(recorded, storage.glob("*/checkpoint_manager_snapshot.json"))):
            workers = [
                process
                for process in psutil.Process().children(recursive=True)
                if "RayTrainWorker" in name_of(process)
            ]
            if workers:
                os.kill(workers[-1].pid, signal.SIGKILL)
                damage_newest(storage)
                killed.append(workers[-1].pid)
        time.sleep(0.02)


def name_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has ended
        return ""


def recorded(snapshot: Path, number: int = 2) -> bool:
    """Whether Ray Train knows so many checkpoints that all workers have handed over."""
    try:
        return len(json.loads(snapshot.read_text())["checkpoint_results"]) >= number
    except ValueError:  # it is being written
        return False


def damage_newest(storage: Path) -> None:
    """Zeros in the middle of adapter and optimizer state."""
    states = sorted(storage.glob("*/checkpoint_*/global_step*/mp_rank_00_model_states.pt"))
    content = states[-1].read_bytes()
    half = len(content) // 2
    states[-1].write_bytes(content[:half] + bytes(64) + content[half + 64 :])


def event_files(run: Run) -> list[Path]:
    return sorted(Path(run.path("tensorboard", "round-1")).iterdir(), key=os.path.getmtime)


def steps_of(path: Path) -> list[int]:
    """The steps whose loss a TensorBoard event file holds, in the order written."""
    content, first, steps = path.read_bytes(), 0, []
    while first < len(content):
        (size,) = struct.unpack("<Q", content[first : first + 8])
        event = event_pb2.Event.FromString(content[first + 12 : first + 12 + size])
        steps += [event.step for value in event.summary.value if value.tag == "train/loss"]
        first += size + 16
    return steps
