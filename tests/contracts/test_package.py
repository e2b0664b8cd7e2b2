"""What an installed raypipe needs beside its code is in its wheel: it may have no checkout."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from raypipe.config import CONFIGS

ROOT = Path(__file__).resolve().parents[2]
BUILD = "import setuptools.build_meta as b; print(b.build_wheel({target!r}))"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's files, built of what deploy/Dockerfile copies."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "raypipe", source / "raypipe", ignore=shutil.ignore_patterns("*.pyc"))
    code = BUILD.format(target=str(target))
    subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, check=True)
    (wheel,) = target.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def test_every_tracked_file_of_the_package_is_in_the_wheel(installed: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "raypipe"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    tracked = [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    assert [name for name in tracked if not (installed / name).is_file()] == []


def test_the_default_configuration_is_read_without_a_checkout(
    installed: Path, tmp_path: Path
) -> None:
    code = (
        "import raypipe.config as c, raypipe.ingest.config_draft; "
        "print(c.__file__, c.load().run.name, len(list(c.CONFIGS.glob('*.yaml'))))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(installed), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    where, name, shipped = ran.stdout.split()
    assert where.startswith(str(installed))
    assert (name, int(shipped)) == ("local", len(list((ROOT / "jobs" / "configs").glob("*.yaml"))))


def test_the_path_that_documents_name_leads_to_the_shipped_configurations() -> None:
    link = ROOT / "jobs" / "configs"
    assert link.readlink() == Path("../raypipe/config/shipped")  # holds in a copy, too
    assert link.resolve() == CONFIGS
