"""What is deleted of a run, and all that is not."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raypipe.cli.gc import seconds_of
from raypipe.cli.main import main
from raypipe.maintenance import caches, garbage
from raypipe.maintenance.inventory import take_inventory
from raypipe.schemas import TRUTH
from raypipe.store.artifacts import Run
from raypipe.store.manifest import encode
from raypipe.store.paths import RUN_EVENTS, TRACKING
from tests.fakes.partial_runs import PREPARED, STAGES, Begin, Finish, WriteRows, summarise

NOW = ("--older-than", "0")


def files(run: Run) -> set[str]:
    root = Path(run.root)
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def age(run: Run, days: float) -> None:
    then = time.time() - days * 86_400
    for path in Path(run.root).rglob("*"):
        os.utime(path, (then, then))


def put(run: Run, path: str, content: bytes = b"checkpoint") -> str:
    target = Path(run.path(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return path


def check_all_read(run: Run) -> None:
    """Every committed file is there with its bytes."""
    for name, holding in take_inventory(run).holdings.items():
        if holding.commit is None:
            continue
        artifact = run.artifact(name)
        for file in holding.commit.files:
            if file.kind == "files":
                artifact.read_file(file.path.split("/", 2)[2])
        artifact.commit()


@pytest.fixture
def littered(begin: Begin, finish: Finish, write_rows: WriteRows) -> tuple[Run, set[str]]:
    """A finished run in which kills have left all that they may leave, and what of it may go."""
    run = begin()
    write_rows(run, "catalog/truth", "a", refused="b")
    before = files(run)
    whole = write_rows(run, "catalog/truth", "c")
    kept = files(run) - before
    # Salvaged: the manifest of the second attempt names the row file of the first.
    written = [file for file in whole.salvage() if file.entry.kind == "data"]
    assert len(written) == 1
    whole.commit(written=written)
    assert kept < files(run)
    finish(run, *(name for name in STAGES if name != "catalog/truth"))
    summarise(run)
    clean = files(run)
    lost_race = write_rows(run, "catalog/truth", "z", refused="y")
    lost_race.write_file("notes.json", b"{}")
    put(run, ".training/sft/0123456789ab/checkpoint_1/weights.bin")
    put(run, ".training/sft/0123456789ab/checkpoint_manager_snapshot.json", b"{}")
    put(run, "sft/chains/_COMMIT.json#1", b"{")
    put(run, "sft/adapter/files/0123456789ab-01234567/adapter_model.safetensors", b"half")
    stale = {path for path in before if path.startswith("catalog/truth/quarantine/")}
    return run, (files(run) - clean) | stale


def test_without_yes_nothing_goes_and_everything_is_told(
    littered: tuple[Run, set[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    run, litter = littered
    before = files(run)
    assert main(["gc", run.location, *NOW]) == 0
    shown = capsys.readouterr().out
    assert files(run) == before
    assert f"Would delete in {run.location}" in shown
    assert "checkpoints of a finished training" in shown
    (total,) = [line for line in shown.splitlines() if "in all" in line]
    size = sum(Path(run.path(path)).stat().st_size for path in litter)
    assert [cell.strip() for cell in total.split("│")][3:5] == [str(len(litter)), f"{size:,}"]
    assert "--yes deletes it" in shown


def test_with_yes_exactly_the_litter_goes_and_every_artifact_still_reads(
    littered: tuple[Run, set[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    run, litter = littered
    before = files(run)
    assert main(["gc", run.location, *NOW, "--yes"]) == 0
    assert "Deleted in" in capsys.readouterr().out
    assert before - files(run) == litter
    check_all_read(run)
    assert not Path(run.path(".training/sft")).exists()
    assert main(["gc", run.location, *NOW]) == 0
    assert capsys.readouterr().out == f"nothing to delete in {run.location}\n"


def test_what_salvage_took_from_an_older_attempt_stays(littered: tuple[Run, set[str]]) -> None:
    run, _ = littered
    commit = run.artifact("catalog/truth").require_commit()
    attempts = {file.path.split("/")[1] for file in commit.files if file.kind == "data"}
    assert len(attempts) == 2
    assert main(["gc", run.location, *NOW, "--yes"]) == 0
    rows = run.artifact("catalog/truth", TRUTH).read(["listing_id"])
    assert sorted(rows.column("listing_id").to_pylist()) == ["a", "c"]


def test_nothing_young_goes(littered: tuple[Run, set[str]]) -> None:
    run, litter = littered
    before = files(run)
    assert main(["gc", run.location, "--yes"]) == 0
    assert files(run) == before
    age(run, days=2)
    assert main(["gc", run.location, "--yes"]) == 0
    assert before - files(run) == litter


def test_what_an_interrupted_stage_left_stays_and_is_resumed_from(
    begin: Begin, finish: Finish, write_rows: WriteRows
) -> None:
    run = begin()
    finish(run, *PREPARED)
    write_rows(run, "pretrained/chains", "a", "b", refused="c")
    torn = put(run, "pretrained/chains/data/0123456789ab-01234567/1.parquet", b"PAR1 and no end")
    empty = put(run, "pretrained/chains/data/0123456789ab-01234567/2.parquet", b"")
    checkpoint = put(run, ".training/sft/0123456789ab/checkpoint_1/weights.bin")
    before = files(run)
    assert main(["gc", run.location, *NOW, "--yes"]) == 0
    assert before - files(run) == {torn, empty}
    assert checkpoint in files(run)
    again = write_rows(run, "pretrained/chains", "d")
    written = again.salvage()
    assert sorted(name for file in written for name in file.ids.to_pylist()) == [
        "a",
        "b",
        "c",
    ]
    commit = again.commit(expected=["a", "b", "c", "d"], written=written)
    assert (commit.rows, commit.quarantined) == (3, 1)
    assert main(["gc", run.location, *NOW, "--yes"]) == 0
    assert len(run.artifact("pretrained/chains", TRUTH).read()) == 3


def test_all_unfinished_goes_when_it_is_asked_for(
    begin: Begin, finish: Finish, write_rows: WriteRows
) -> None:
    run = begin()
    finish(run, *PREPARED)
    clean = files(run)
    write_rows(run, "pretrained/chains", "a", refused="c")
    put(run, ".training/sft/0123456789ab/checkpoint_1/weights.bin")
    assert main(["gc", run.location, *NOW, "--all-unfinished", "--yes"]) == 0
    assert files(run) == clean
    check_all_read(run)


def test_a_stage_that_is_being_written_goes_not_even_its_oldest_files(
    begin: Begin, finish: Finish, write_rows: WriteRows
) -> None:
    """A driver has the written of what it wrote two days ago, and commits them in a minute."""
    run = begin()
    attempt = write_rows(run, "catalog/truth", "a")
    age(run, days=2)
    attempt.write(TRUTH.from_rows([{"listing_id": "b", "answers": []}]))
    found = garbage.find_garbage(
        take_inventory(run),
        before=time.time() - 86_400,
        all_unfinished=True,
        is_torn=garbage.torn_in(run),
    )
    assert found == []
    assert attempt.commit(expected=["a", "b"]).rows == 2


def test_a_run_in_use_is_refused_and_says_what_is_under_way(
    littered: tuple[Run, set[str]], write_rows: WriteRows, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = littered
    age(run, days=2)
    write_rows(run, "round-2/chains", "a")
    before = files(run)
    assert main(["gc", run.location, "--yes"]) == 3
    assert "may be in use: round-2/chains is not committed" in capsys.readouterr().err
    assert files(run) == before
    assert main(["gc", run.location]) == 0
    assert "round-2/chains may be under way: --yes would refuse" in capsys.readouterr().out


def test_a_training_before_its_first_checkpoint_counts_as_use(
    begin: Begin, finish: Finish, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begin()
    finish(run, *PREPARED)
    put(run, "tensorboard/sft/events.out")
    assert main(["gc", run.location, "--yes"]) == 3
    assert "sft/adapter is not committed" in capsys.readouterr().err


def test_what_was_committed_since_the_look_stays(begin: Begin, write_rows: WriteRows) -> None:
    run = begin()
    attempt = write_rows(run, "catalog/truth", "a")
    found = garbage.find_garbage(
        take_inventory(run), before=time.time() + 1, all_unfinished=True, is_torn=lambda path: False
    )
    assert len(found) == 1
    attempt.commit()
    assert garbage.delete(run, found) == []
    assert len(run.artifact("catalog/truth", TRUTH).read()) == 1


def test_nothing_of_a_broken_artifact_goes(
    littered: tuple[Run, set[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    run, litter = littered
    Path(run.path("catalog/truth/_COMMIT.json")).write_text("{")
    before = files(run)
    assert main(["gc", run.location, *NOW]) == 3
    assert "│ catalog/truth" not in capsys.readouterr().out
    assert main(["gc", run.location, *NOW, "--yes"]) == 3
    gone = before - files(run)
    assert gone == {path for path in litter if not path.startswith("catalog/truth/")}
    assert "left alone" in capsys.readouterr().out


def test_merged_weights_of_the_runs_policies_go_and_those_of_others_stay(
    begin: Begin, finish: Finish, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begin()
    finish(run, *STAGES)
    merged = home / ".cache" / "raypipe" / "merged"
    for name in ("b" * 16, f"{'b' * 16}.01234567", "c" * 16):
        (merged / name).mkdir(parents=True)
        (merged / name / "model.safetensors").write_bytes(b"weights")
    assert main(["gc", run.location, "--yes"]) == 0  # they are young
    assert len(list(merged.iterdir())) == 3
    assert main(["gc", run.location, *NOW, "--yes"]) == 0
    assert [path.name for path in merged.iterdir()] == ["c" * 16]
    assert "~/.cache/raypipe/merged/bbbb" in capsys.readouterr().out


def merged_folder(home: Path, name: str, days: float = 2) -> Path:
    """A checkpoint in this machine's cache, as old as that."""
    folder = home / ".cache" / "raypipe" / "merged" / name
    folder.mkdir(parents=True)
    then = time.time() - days * 86_400
    for file in ("raypipe_probe.json", "model.safetensors"):
        (folder / file).write_bytes(b"weights")
        os.utime(folder / file, (then, then))
    return folder


def test_a_checkpoint_that_cannot_be_deleted_whole_is_found_by_no_engine(
    begin: Begin, finish: Finish, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin()
    finish(run, *STAGES)
    folder = merged_folder(home, "b" * 16)

    def killed(path: Path) -> None:
        (Path(path) / "model.safetensors").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(caches.shutil, "rmtree", killed)
        assert main(["gc", run.location, "--yes", "--older-than", "1d"]) == 130
    assert not folder.exists()
    assert len(list(folder.parent.iterdir())) == 1
    assert main(["gc", run.location, "--yes", "--older-than", "1d"]) == 0
    assert list(folder.parent.iterdir()) == []


def test_a_checkpoint_that_an_engine_took_since_the_look_stays(
    begin: Begin, finish: Finish, home: Path
) -> None:
    run = begin()
    finish(run, *STAGES)
    folder = merged_folder(home, "b" * 16)
    before = time.time() - 86_400
    found = caches.find_caches(take_inventory(run), before=before, home=home / ".cache/raypipe")
    assert [cache.path for cache in found] == [folder]
    os.utime(folder / "raypipe_probe.json")
    assert caches.delete_caches(found, before=before) == []
    assert (folder / "model.safetensors").is_file()


def test_a_folder_that_an_engine_has_just_made_is_young(
    begin: Begin, finish: Finish, home: Path
) -> None:
    run = begin()
    finish(run, *STAGES)
    partial = home / ".cache" / "raypipe" / "merged" / f"{'b' * 16}.01234567"
    partial.mkdir(parents=True)
    assert main(["gc", run.location, "--yes"]) == 0
    assert partial.is_dir()


def test_a_file_that_vanishes_while_it_is_looked_at_is_no_matter(
    begin: Begin, finish: Finish, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin()
    finish(run, *STAGES)
    folder = merged_folder(home, "b" * 16)
    listed = [(str(folder), [], ["model.safetensors", "gone.tmp"])]
    monkeypatch.setattr(caches.os, "walk", lambda folder: listed)
    assert main(["gc", run.location, *NOW]) == 0


@pytest.mark.parametrize(
    "policy",
    ["", ".", "..", "../../precious", "../../../precious", "{home}/precious", "*", 7, ["b"]],
)
def test_what_a_manifest_says_leads_nowhere_but_into_the_cache(
    begin: Begin, finish: Finish, home: Path, policy: object
) -> None:
    run = begin()
    finish(run, "catalog/truth")
    named = policy.format(home=home) if isinstance(policy, str) else policy
    commit = run.artifact("catalog/truth").require_commit()
    forged = replace(commit, fingerprint={"policy_id": named})
    run.replace("catalog/truth/_COMMIT.json", encode(forged))
    kept = [merged_folder(home, "c" * 16), home / "precious", home / ".cache/raypipe/attempts/a"]
    for folder in kept[1:]:
        folder.mkdir(parents=True)
        (folder / "mine").touch()
    assert main(["gc", run.location, *NOW, "--yes"]) == 0
    assert all(any(folder.iterdir()) for folder in kept)


def test_what_a_run_tells_of_itself_as_a_whole_is_no_training_under_way(
    begin: Begin, finish: Finish, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begin()
    finish(run, *STAGES)
    summarise(run)
    put(run, f"{RUN_EVENTS}/events.out.tfevents.1")
    before = files(run)
    assert main(["gc", run.location, "--yes"]) == 0
    assert capsys.readouterr().out == f"nothing to delete in {run.location}\n"
    assert files(run) == before
    assert take_inventory(run).boards == {}


@pytest.mark.parametrize(
    "path",
    [
        f"{RUN_EVENTS}/events.out.tfevents.1",
        TRACKING,
        "wandb/offline-run-1/files/config.yaml",
        "exports/labels/000001/tasks.json",
        "exports/labels/000001/tasks.json#1",
        "exports/sft/files/0123456789ab-01234567/pairs.json",
        "annotation/replies/ab/abcdef.json",
        "annotation/replies/ab/abcdef.json#1",
        "annotation/replies/data/0123456789ab-01234567/abcdef.json",
    ],
)
def test_what_is_beside_the_artifacts_is_neither_litter_nor_use(
    begin: Begin, finish: Finish, path: str
) -> None:
    run = begin()
    finish(run, *STAGES)
    put(run, path)
    inventory = take_inventory(run)
    assert garbage.in_use(inventory, since=0) is None
    assert set(inventory.holdings) == set(STAGES)
    assert main(["gc", run.location, *NOW, "--yes", "--all-unfinished"]) == 0
    assert path in files(run)


def test_a_tables_copy_stays_whole_and_only_what_was_left_of_it_goes(
    begin: Begin, finish: Finish, write_rows: WriteRows
) -> None:
    run = begin()
    finish(run, *STAGES)
    name = "tables/delta-0123456789ab"
    write_rows(run, name, "a").commit()
    whole = files(run)
    write_rows(run, name, "a")  # by a driver that another one was faster than
    assert garbage.in_use(take_inventory(run), since=0) is None
    assert main(["gc", run.location, *NOW, "--yes", "--all-unfinished"]) == 0
    assert files(run) == whole
    check_all_read(run)


def test_what_is_no_artifact_is_never_touched(begin: Begin, finish: Finish) -> None:
    run = begin()
    finish(run, *STAGES)
    for path in (
        "exports/sft/data/0123456789ab-01234567/pairs.parquet",
        "report/files/0123456789ab-01234567/page.html",
        "tensorboard/sft/events.out",
        "labels/000001/request.json",
        "notes/data/mine.parquet",
        "notes.json",
        "sft/adapter/README#1",
    ):
        put(run, path)
    before = files(run)
    arguments = ["gc", run.location, *NOW, "--yes", "--all-unfinished"]
    assert main(arguments) == 0
    assert files(run) == before


def test_the_same_command_resumes_after_it_and_makes_nothing_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ("num_pool=4", "num_eval=3", "num_anchor=2", "seed_per_vertical=1")
    command = ["prepare", f"run.directory={tmp_path}", "run.name=shop", "catalog.image_size=28"]
    command += [f"catalog.embedded.{size}" for size in sizes]
    assert main(command) == 0
    run = Run(str(tmp_path / "shop"))
    before = {path: Path(run.path(path)).read_bytes() for path in files(run)}
    data, *_ = Path(run.path("catalog/listings/data")).glob("*/*.parquet")
    put(run, f"catalog/listings/data/0123456789ab-01234567/{data.name}", data.read_bytes())
    capsys.readouterr()
    assert main(["gc", run.location, *NOW, "--yes", "--all-unfinished"]) == 0
    assert {path: Path(run.path(path)).read_bytes() for path in files(run)} == before
    capsys.readouterr()
    assert main(command) == 0
    assert "already done" in capsys.readouterr().out
    assert pq.read_table(data).num_rows > 0


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("90", 90), ("90m", 5400), ("7d", 604_800)]
)
def test_ages(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["soon", "-1h", "1w", ""])
def test_what_is_no_age_is_a_usage_error(
    text: str, begin: Begin, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["gc", begin().location, f"--older-than={text}"])
    assert raised.value.code == 2
    assert "is no age" in capsys.readouterr().err


@pytest.mark.parametrize("ahead", [86_400 * 3, 86_400 * 400])
def test_a_machine_whose_clock_is_ahead_takes_nothing_of_a_live_stage(
    begin: Begin,
    finish: Finish,
    write_rows: WriteRows,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ahead: int,
) -> None:
    run = begin()
    finish(run, *PREPARED)
    write_rows(run, "pretrained/chains", "a", "b")
    put(run, "pretrained/chains/data/0123456789ab-01234567/1.parquet", b"PAR1 half")
    put(run, "sft/adapter/data/0123456789ab-01234567/1.parquet", b"PAR1 half")
    put(run, ".training/sft/0123456789ab/checkpoint/a.pt")
    before = files(run)
    now = time.time
    monkeypatch.setattr("raypipe.cli.gc.time.time", lambda: now() + ahead)
    for options in ((), ("--all-unfinished",)):
        assert main(["gc", run.location, "--yes", "--older-than", "24h", *options]) == 3
        assert "may be in use" in capsys.readouterr().err
        assert files(run) == before
    age(run, 2 + ahead / 86_400)
    assert main(["gc", run.location, "--yes", "--older-than", "24h"]) == 0
    assert len(files(run)) < len(before)


def test_what_a_link_leads_to_stays(begin: Begin, finish: Finish, tmp_path: Path) -> None:
    run = begin()
    finish(run, *STAGES)
    outside = tmp_path / "outside"
    names = ["weights.bin", "checkpoint_1/weights.bin", "rows.parquet", "run.json#1"]
    for name in names:
        (outside / name).parent.mkdir(parents=True, exist_ok=True)
        (outside / name).write_bytes(b"mine")
    links = [".training/sft/0123456789ab", "sft/chains/data/0123456789ab-01234567", "odd"]
    for link in links:
        Path(run.path(link)).parent.mkdir(parents=True, exist_ok=True)
        Path(run.path(link)).symlink_to(outside)
    training = Path(run.path(".training/round-1/0123456789ab"))
    training.mkdir(parents=True)
    (training / "checkpoint_1").symlink_to(outside)
    age(run, days=3)
    for name in names:
        os.utime(outside / name, (0, 0))
    assert main(["gc", run.location, *NOW, "--all-unfinished", "--yes"]) == 0
    assert all((outside / name).read_bytes() == b"mine" for name in names)
