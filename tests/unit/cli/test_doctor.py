"""The doctor: what it says of a set-up that is well, and of every way in which one is broken."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from raypipe.cli.main import main
from raypipe.config import ModelConfig
from raypipe.doctor import checks, environment, machine, model, packages, session
from raypipe.doctor.finding import EXIT_RETRY, Finding, exit_code, fail, ok, warn
from raypipe.doctor.machine import GIB, Devices
from raypipe.doctor.storage import check_storage
from raypipe.doctor.tested_versions import TESTED
from raypipe.errors import StorageError
from raypipe.store.artifacts import Run

Findings = Iterable[Finding]


def said(findings: Findings | Finding) -> dict[str, tuple[str, str]]:
    """Verdict and detail by what was looked at."""
    listed = [findings] if isinstance(findings, Finding) else findings
    return {finding.what: (finding.verdict, finding.detail) for finding in listed}


def verdicts(findings: Findings | Finding) -> dict[str, str]:
    return {what: verdict for what, (verdict, _) in said(findings).items()}


# Packages


def test_the_tested_versions_are_well_and_builds_of_them_too() -> None:
    installed = TESTED | {"torch": "2.13.0+cu130"}
    found = verdicts(packages.check_packages(installed, TESTED, {"ray": ">=2.60"}))
    assert set(found.values()) == {"ok"}


def test_another_version_is_doubtful_and_names_the_tested_one() -> None:
    found = said(packages.check_packages({**TESTED, "trl": "1.17.0"}, TESTED, {"trl": ">=1.16"}))
    assert found["trl"] == ("warn", "1.17.0, tested with 1.16.0")


@pytest.mark.parametrize(
    ("version", "detail"),
    [("2.41.0", "2.41.0, raypipe needs >=2.60"), (None, "not installed; tested with 2.60.0")],
)
def test_a_version_that_raypipe_refuses_or_none_fails(version: str | None, detail: str) -> None:
    installed = {name: known for name, known in TESTED.items() if name != "ray"}
    installed |= {"ray": version} if version else {}
    found = said(packages.check_packages(installed, TESTED, {"ray": ">=2.60"}))
    assert found["ray"] == ("fail", detail)


def test_the_cpu_build_of_vllm_counts_as_vllm() -> None:
    assert packages.installed_versions(["vllm", "no-such-package"]) == {"vllm": TESTED["vllm"]}
    assert packages.required_versions().get("vllm", "==0.32.0") == f"=={TESTED['vllm']}"


def test_a_python_that_raypipe_does_not_run_on_fails() -> None:
    assert packages.check_python((3, 11, 9)).verdict == "ok"
    assert packages.check_python((3, 13, 0)).verdict == "fail"


# Variables


@pytest.mark.parametrize(
    "name",
    [
        "VLLM_ALLOW_INSECURE_SERIALIZATION",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
        "RAY_DATA_AUTOLOAD_PICKLE_OBJECT_SCALAR",
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD",
        "RAY_ENABLE_RECORD_ACTOR_TASK_LOGGING",
        "CUDA_LAUNCH_BLOCKING",
    ],
)
def test_a_switch_that_is_unsafe_or_slow_is_told(name: str) -> None:
    assert verdicts(environment.check_switches({name: "1"})) == {name: "warn"}
    assert verdicts(environment.check_switches({name: "0"})) == {"environment": "ok"}


def test_every_switch_of_vllm_is_one_that_the_installed_vllm_reads() -> None:
    known = environment.known_to_vllm()
    switches = {**environment.UNSAFE, **environment.COSTLY}
    assert known
    assert {name for name in switches if name.startswith("VLLM_")} <= known


def test_a_variable_of_another_vllm_is_told_and_one_of_this_is_not() -> None:
    known = environment.known_to_vllm()
    given = {"VLLM_USE_V1": "1", "VLLM_CPU_KVCACHE_SPACE": "2", "HOME": "/home/me"}
    assert verdicts(environment.check_stale(given, known)) == {"VLLM_USE_V1": "warn"}
    assert verdicts(environment.check_stale(given, ())) == {}


@pytest.mark.parametrize(
    ("threads", "actors", "expected"),
    [("2", 1, "ok"), ("2", 2, "warn"), ("8", 1, "warn"), ("two", 1, "fail"), ("2,1", 1, "ok")],
)
def test_threads_must_fit_the_cores(threads: str, actors: int, expected: str) -> None:
    given = {"OMP_NUM_THREADS": threads}
    assert verdicts(environment.check_threads(given, actors=actors, cores=2)) == {
        "OMP_NUM_THREADS": expected
    }
    assert verdicts(environment.check_threads({}, actors=actors, cores=2)) == {}


def test_expandable_segments_and_a_kv_connector_exclude_each_other() -> None:
    given = {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64,expandable_segments:True"}
    connected = {"kv_transfer_config": {"kv_connector": "NixlConnector"}}
    (found,) = environment.check_allocator(given, connected)
    assert found.verdict == "fail"
    (found,) = environment.check_allocator(given, {"enable_sleep_mode": True})
    assert found.verdict == "warn"
    assert not list(environment.check_allocator(given, {}))


def test_hidden_gpus_fail_where_they_are_wanted() -> None:
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    assert verdicts(environment.check_gpus_shown(hidden, wanted=True)) == {
        "CUDA_VISIBLE_DEVICES": "fail"
    }
    assert not list(environment.check_gpus_shown(hidden, wanted=False))
    assert not list(environment.check_gpus_shown({"CUDA_VISIBLE_DEVICES": "0"}, wanted=True))


def test_a_key_is_looked_for_and_never_told() -> None:
    secret = "sk-very-secret"
    found = environment.check_key({"OPENAI_API_KEY": secret}, "evals", "OPENAI_API_KEY")
    assert found.verdict == "ok"
    assert secret not in str(found)
    missing = environment.check_key({}, "annotation", "MY_KEY")
    assert (missing.verdict, "MY_KEY is not set" in missing.detail) == ("fail", True)
    assert environment.check_key({}, "evals", None).verdict == "ok"


# Ray


def test_no_address_starts_a_ray_and_one_that_is_named_must_answer(tmp_path: Path) -> None:
    asked: list[tuple[str, int]] = []

    def silent(host: str, port: int) -> bool:
        asked.append((host, port))
        return False

    assert session.check_address({}, silent).verdict == "ok"
    for address in ("10.0.0.1:6380", "10.0.0.1", "ray://head:10001", "http://head"):
        found = session.check_address({"RAY_ADDRESS": address}, silent)
        assert (found.verdict, found.exit_code) == ("fail", EXIT_RETRY)
    assert asked == [("10.0.0.1", 6380), ("10.0.0.1", 6379), ("head", 10001), ("head", 8265)]
    auto = session.check_address({"RAY_ADDRESS": "auto"}, silent, tmp_path)
    assert "no Ray was started" in auto.detail
    (tmp_path / "ray_current_cluster").write_text("127.0.0.1:6379")
    assert session.check_address({"RAY_ADDRESS": "auto"}, lambda *_: True, tmp_path).verdict == "ok"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "ok"),
        ({"RAY_AUTH_MODE": "token"}, "ok"),
        ({"RAY_AUTH_MODE": "disabled"}, "warn"),
        ({"RAY_AUTH_MODE": "tokens"}, "fail"),
        ({"RAY_ADDRESS": "head:6379"}, "warn"),
        ({"RAY_ADDRESS": "head:6379", "RAY_AUTH_MODE": "token"}, "fail"),
        ({"RAY_ADDRESS": "head:6379", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "t"}, "ok"),
    ],
)
def test_who_may_run_code_on_ray(given: Mapping[str, str], expected: str, tmp_path: Path) -> None:
    assert verdicts(session.check_authentication(given, tmp_path)) == {"RAY_AUTH_MODE": expected}


def test_a_token_that_others_may_read_is_told(tmp_path: Path) -> None:
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("secret-token")
    token.chmod(0o644)
    found = list(session.check_authentication({}, tmp_path))
    assert verdicts(found)["Ray's token"] == "warn"
    assert "secret-token" not in str(found)
    token.chmod(0o600)
    assert "Ray's token" not in verdicts(session.check_authentication({}, tmp_path))


def test_a_dashboard_for_the_whole_network_is_told() -> None:
    header = "  sl  local_address rem_address   st tx_queue\n"
    line = "   0: {}:2049 00000000:0000 {} 00000000:00000000 00:00000000\n"
    assert session.check_dashboard(header + line.format("00000000", "0A")).verdict == "warn"
    assert session.check_dashboard(header + line.format("0" * 32, "0A")).verdict == "warn"
    assert session.check_dashboard(header + line.format("0100007F", "0A")).verdict == "ok"
    assert session.check_dashboard(header + line.format("00000000", "01")).verdict == "ok"
    assert session.check_dashboard("").verdict == "ok"


# The machine


@pytest.mark.parametrize(
    ("devices", "wanted", "joins", "expected"),
    [
        (Devices([("H100", 80 * GIB)], "580.1", cores=16), True, False, "ok"),
        (Devices(cores=2, memory=24 * GIB), False, False, "ok"),
        (Devices(cores=2, memory=24 * GIB), True, True, "warn"),
        (Devices(driver="535.1", cores=2), True, False, "fail"),
        (Devices(fault="ImportError: libcudart"), False, False, "fail"),
    ],
)
def test_devices(devices: Devices, wanted: bool, joins: bool, expected: str) -> None:
    assert machine.check_devices(devices, wanted=wanted, joins=joins).verdict == expected


def test_a_compiler_is_needed_where_trainings_run_on_cpus(tmp_path: Path) -> None:
    (tmp_path / "ninja").touch()
    nowhere = machine.check_compiler(lambda program: None, tmp_path, needed=True)
    found = {finding.what: finding for finding in nowhere}
    assert found["g++"].fix == "apt-get install g++"
    assert found["ninja"].fix == f"export PATH={tmp_path}:$PATH"
    assert all(finding.verdict == "fail" for finding in found.values())
    unneeded = machine.check_compiler(lambda program: None, tmp_path, needed=False)
    assert set(verdicts(unneeded).values()) == {"ok"}


def test_an_object_store_that_does_not_fit_into_shared_memory_is_told() -> None:
    (well,) = machine.check_shared_memory(24 * GIB, 24 * GIB)
    (small,) = machine.check_shared_memory(64 << 20, 24 * GIB)  # what Docker gives
    assert (well.verdict, small.verdict) == ("ok", "warn")
    assert not list(machine.check_shared_memory(None, 24 * GIB))


def test_ray_takes_as_much_shared_memory_as_the_check_says() -> None:
    from ray._private import utils

    free = utils.get_shared_memory_bytes()
    (found,) = machine.check_shared_memory(free, 8 * GIB)
    assert f"takes {utils.resolve_object_store_memory(8 * GIB) / GIB:.1f}" in found.detail


@pytest.mark.parametrize(
    ("free", "total", "expected"),
    [(50, 100, "ok"), (5, 50, "warn"), (40, 1000, "warn"), (0, 100, "fail")],
)
def test_room_on_a_disk(free: int, total: int, expected: str) -> None:
    found = machine.check_disk("disk", free * GIB, total * GIB)
    assert found.verdict == expected
    assert found.verdict != "fail" or found.exit_code == EXIT_RETRY


def test_a_variable_that_an_engine_takes_from_the_job_must_be_there() -> None:
    taken = {"HF_TOKEN": None, "OMP_NUM_THREADS": "1"}
    assert verdicts(environment.check_taken({}, taken)) == {"sampling.environment.HF_TOKEN": "fail"}
    assert verdicts(environment.check_taken({"HF_TOKEN": "hf_x"}, taken)) == {}


def test_no_finding_tells_a_secret() -> None:
    found = session.check_address({"RAY_ADDRESS": "http://me:hush-7a@host:1"}, lambda *_: False)
    assert "hush-7a" not in found.detail


# The model


def hub(revision: str | None, cached: bool, **given: str) -> dict[str, str]:
    config = ModelConfig(path="Qwen/Qwen2.5-VL-3B-Instruct", revision=revision)
    return verdicts(model.check_model(config, given, lambda path, revision: cached))


def test_a_hub_model_is_pinned_and_there_or_it_is_told() -> None:
    commit = "66285546d2b821cf421d4f5eb2576359d3770cd3"
    assert hub(commit, True) == {"model.path": "ok", "model.revision": "ok"}
    assert hub(None, False) == {"model.path": "warn", "model.revision": "warn"}
    assert hub("main", True)["model.revision"] == "warn"
    assert hub(commit, False, HF_HUB_OFFLINE="1")["model.path"] == "fail"
    assert hub(commit, True, HF_HUB_OFFLINE="1")["model.path"] == "ok"


def test_the_licence_of_the_base_model_is_told(tmp_path: Path) -> None:
    def told(path: str) -> str:
        return next(model.check_model(ModelConfig(path=path), {}, lambda *_: True)).detail

    assert "licence qwen-research (https://" in told("Qwen/Qwen2.5-VL-3B-Instruct")
    assert told("Qwen/Qwen3-VL-2B-Instruct").endswith("licence apache-2.0")
    for name, text in (("config.json", '{"model_type": "qwen2_vl"}'), ("model.safetensors", "")):
        (tmp_path / name).write_text(text)
    assert "licence unknown" in told(str(tmp_path))
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    assert told(str(tmp_path)).endswith("licence mit")


def test_a_local_model_must_be_whole_and_without_code(tmp_path: Path) -> None:
    def look() -> str:
        config = ModelConfig(path=str(tmp_path))
        return verdicts(model.check_model(config, {}, lambda *_: False))["model.path"]

    assert look() == "fail"
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    assert look() == "fail"
    (tmp_path / "model.safetensors").touch()
    assert look() == "ok"
    (tmp_path / "config.json").write_text('{"auto_map": {"AutoModel": "modeling.Mine"}}')
    assert look() == "fail"


@pytest.mark.parametrize("path", ["embedded:mega", "/no/such/model", "./model"])
def test_a_model_that_is_nowhere_fails(path: str) -> None:
    found = verdicts(model.check_model(ModelConfig(path=path), {}, lambda *_: False))
    assert found == {"model.path": "fail"}


# Storage


class Forgetful(Run):
    """A store whose create replaces what is there."""

    def create(self, path: str, content: bytes) -> bool:
        self.replace(path, content)
        return True


def test_storage_creates_once_and_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    assert check_storage(str(tmp_path / "runs")).verdict == "ok"
    assert check_storage(str(tmp_path / "not" / "yet")).verdict == "ok"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["runs"]


def test_storage_that_creates_twice_fails(tmp_path: Path) -> None:
    found = check_storage(str(tmp_path), Forgetful)
    assert (found.verdict, found.exit_code) == ("fail", 2)
    assert "two writers would both commit" in found.detail
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_to_be_mended(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = check_storage(str(tmp_path / "file" / "runs"))
    assert (found.verdict, found.exit_code) == ("fail", 2)


def test_storage_out_of_reach_may_be_tried_again() -> None:
    def out_of_reach(location: str) -> Run:
        raise StorageError("cannot open s3://b/runs: NETWORK_CONNECTION")

    found = check_storage("s3://b/runs", out_of_reach)
    assert (found.verdict, found.exit_code) == ("fail", EXIT_RETRY)


def test_a_place_of_no_kind_that_is_known_is_to_be_mended() -> None:
    found = check_storage("zz://bucket/runs")
    assert (found.verdict, found.exit_code) == ("fail", 2)


# All of it


def test_the_exit_code_says_whether_waiting_helps() -> None:
    well, doubtful = ok("a", "b"), warn("a", "b", "c")
    wrong, out_of_reach = fail("a", "b", "c"), fail("a", "b", "c", EXIT_RETRY)
    assert exit_code([well, doubtful]) == 0
    assert exit_code([well, out_of_reach]) == 4
    assert exit_code([wrong, out_of_reach]) == 2


@pytest.fixture
def quiet_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine whose devices are known, with nothing set that the doctor minds."""
    devices = Devices(cores=64, memory=24 * GIB)
    monkeypatch.setattr(checks, "look_for_devices", lambda: devices)
    monkeypatch.setattr(checks.os, "cpu_count", lambda: 64)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in list(os.environ):
        if name.startswith(("RAY_", "VLLM_", "CUDA_", "OMP_", "PYTORCH_", "HF_", "TRANSFORMERS_")):
            monkeypatch.delenv(name)
    return tmp_path


def test_a_set_up_that_is_well_has_a_line_for_everything_and_exits_0(
    quiet_machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", f"run.directory={quiet_machine}/runs"]) == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert f"ok    ray  — {TESTED['ray']}" in lines
    assert "ok    devices  — CPU, 64 cores, 24 GiB" in lines
    assert "ok    model.path  — embedded:nano (qwen2_5_vl)" in lines
    assert f"ok    run.directory  — {quiet_machine}/runs: a file is created once" in lines
    assert lines[-1].endswith("0 to mend")
    assert not (quiet_machine / "runs").exists()


def test_a_broken_set_up_says_what_to_do_and_exits_2(
    quiet_machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    endpoint = ["evals.endpoint=https://api.openai.com/v1", "evals.endpoint_model=m"]
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    overrides = ["cluster.use_gpu=true", f"run.directory={quiet_machine}/runs", *endpoint]
    assert main(["doctor", *overrides]) == 2
    shown = capsys.readouterr().out
    assert "warn  VLLM_ALLOW_INSECURE_SERIALIZATION  — set, unsafe" in shown
    assert "→ unset VLLM_ALLOW_INSECURE_SERIALIZATION" in shown
    assert "fail  CUDA_VISIBLE_DEVICES" in shown
    assert "fail  devices  — CPU, 64 cores, 24 GiB; the configuration asks for GPUs" in shown
    assert "fail  evals.api_key_variable  — OPENAI_API_KEY is not set" in shown
    assert shown.splitlines()[-1].endswith("3 to mend")


def test_a_wrong_configuration_is_a_finding_and_the_rest_is_looked_at_all_the_same(
    quiet_machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(quiet_machine)
    assert main(["doctor", "training.bata=1"]) == 2
    shown = capsys.readouterr().out
    assert "fail  configuration  — unknown key 'training.bata'; the nearest known" in shown
    assert f"ok    torch  — {TESTED['torch']}" in shown


def test_when_only_a_cluster_is_silent_it_is_worth_trying_again(
    quiet_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert main(["doctor", f"run.directory={quiet_machine}/runs"]) == 4
