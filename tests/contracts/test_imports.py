"""One direction: jobs → command, rounds → stage packages → artifacts → schemas, config → errors.

Stages meet in ``raypipe/schemas.py`` and on disk, never in each other's code; what is heavy is
imported where it is used.
"""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "raypipe"
STAGES = sorted(path.parent.name for path in PACKAGE.glob("*/stage.py"))
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = ("ray", "torch", "transformers", "vllm", "pandas", "datasets", "trl", "peft", "deepspeed")


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(statement: ast.AST) -> Iterator[str]:
    """Full names that an import statement may bind: both of ``from a import b`` and ``a.b``."""
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
    elif isinstance(statement, ast.ImportFrom):
        assert statement.level == 0, "relative imports hide which package is meant"
        assert statement.module is not None
        yield statement.module
        yield from (f"{statement.module}.{alias.name}" for alias in statement.names)


@cache
def imports(path: Path) -> frozenset[str]:
    """Everything that a file imports, at its head or inside a function."""
    tree = ast.parse(path.read_text())
    return frozenset(name for statement in ast.walk(tree) for name in imported(statement))


@cache
def imports_at_head(path: Path) -> frozenset[str]:
    """What importing a file imports at once."""
    statements = ast.parse(path.read_text()).body
    return frozenset(name for statement in statements for name in imported(statement))


def takes(path: Path, package: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for name in imports(path))


def test_the_pipeline_is_all_packages_that_have_a_stage() -> None:
    assert {"catalog", "sampling", "consensus", "training", "evaluation", "report"} <= set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_no_other_stage_and_not_what_drives_it(stage: str) -> None:
    drivers = ("rounds", "sweep", "command", "cli", "upkeep", "doctor")
    others = [f"raypipe.{name}" for name in (*STAGES, *drivers) if name != stage]
    found = [
        f"{label(path)} imports {other}"
        for path in sorted((PACKAGE / stage).rglob("*.py"))
        for other in others
        if takes(path, other)
    ]
    assert found == []


def test_nothing_but_rounds_and_the_command_line_imports_rounds() -> None:
    allowed = {"raypipe/command.py"}
    found = {label(path) for path in MODULES if takes(path, "raypipe.rounds")}
    above = ("raypipe/rounds/", "raypipe/cli/")
    assert {path for path in found if not path.startswith(above)} == allowed


def test_nothing_imports_the_command_line_but_itself() -> None:
    found = {label(path) for path in MODULES if takes(path, "raypipe.cli")}
    assert {path for path in found if not path.startswith("raypipe/cli/")} == set()


def test_the_modules_that_stages_share_import_no_stage() -> None:
    upper = [f"raypipe.{name}" for name in (*STAGES, "rounds", "sweep", "command", "cli")]
    shared = [path for path in MODULES if path.parent == PACKAGE and path.name != "command.py"]
    assert len(shared) > 8
    found = [
        f"{label(path)} imports {name}" for path in shared for name in upper if takes(path, name)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("module", "below"),
    [
        ("secrets", set()),
        ("terminal", set()),
        ("errors", {"secrets", "terminal"}),
        ("seeds", set()),
        ("prompts", set()),
        ("schemas", {"errors"}),
        ("textfiles", set()),
        ("overrides", {"errors", "textfiles"}),
        ("config", {"errors", "overrides", "prompts", "secrets", "textfiles"}),
        ("documents", {"errors"}),
        ("manifest", {"documents"}),
        ("checksums", {"errors", "manifest", "storage"}),
        ("digest", set()),
        ("storage", {"errors", "secrets"}),
        ("parquet", {"errors"}),
        ("identifiers", set()),
        ("receipts", {"digest", "errors", "manifest", "parquet", "schemas", "storage"}),
        (
            "artifacts",
            {"checksums", "digest", "documents", "errors", "manifest", "parquet", "receipts"}
            | {"schemas", "storage"},
        ),
    ],
)
def test_the_ground_modules_stand_on_nothing_above_them(module: str, below: set[str]) -> None:
    files = [PACKAGE / f"{module}.py", *(PACKAGE / module).glob("*.py")]
    names = set().union(*(imports(path) for path in files if path.exists()))
    own = {name.split(".")[1] for name in names if name.startswith("raypipe.")}
    assert own - {module} <= below


def test_jobs_know_the_command_line_alone() -> None:
    for path in sorted((ROOT / "jobs").glob("*.py")):
        own = {name for name in imports(path) if name.startswith("raypipe")}
        assert own == {
            "raypipe.command",
            "raypipe.command.main",
            "raypipe.interruption",
            "raypipe.interruption.stoppable",
        }, label(path)


def test_vllm_is_imported_by_the_engine_and_its_clients_alone() -> None:
    sources = [*MODULES, *sorted((ROOT / "jobs").glob("*.py"))]
    assert [label(path) for path in sources if takes(path, "vllm")] == [
        "raypipe/sampling/clients.py",
        "raypipe/sampling/engine.py",
    ]


def test_evaluation_alone_reads_the_truth() -> None:
    named = {path.parent.name for path in MODULES if "raypipe.schemas.TRUTH" in imports(path)}
    writers = {"catalog", "embedded"}
    assert named - writers == {"evaluation"}


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_module_says_what_to_run(stage: str) -> None:
    body = ast.parse((PACKAGE / stage / "stage.py").read_text()).body
    functions = [node.name for node in body if isinstance(node, ast.FunctionDef)]
    assert [name for name in functions if name == "run" or name.startswith("run_")]


def test_a_stage_or_the_driver_imports_what_is_heavy_only_when_it_runs() -> None:
    found = [
        f"{label(path)} imports {name}"
        for path in [*PACKAGE.glob("*/stage.py"), *(PACKAGE / "rounds").glob("*.py")]
        for name in imports_at_head(path)
        if name.split(".")[0] in HEAVY
    ]
    assert found == []


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(ran.stdout))


@pytest.mark.parametrize(
    "statement",
    [
        "import raypipe.command, raypipe.config",
        "import raypipe.rounds.driver",
        "import raypipe.judging.driver",
    ],
)
def test_what_answers_before_the_work_begins_loads_nothing_heavy(statement: str) -> None:
    assert loaded_by(statement).isdisjoint(HEAVY)


def test_help_loads_neither_arrow_nor_anything_heavy() -> None:
    call = "raypipe.command.main('round', None, ['no.such.key=1'])"
    loaded = loaded_by(f"import raypipe.command; assert {call} == 2")
    assert loaded.isdisjoint({*HEAVY, "numpy", "pyarrow"})


def test_the_command_line_explains_itself_without_arrow_or_anything_heavy() -> None:
    code = "import contextlib, raypipe.cli.main as cli\nwith contextlib.suppress(SystemExit):\n"
    loaded = loaded_by(f"{code}    with contextlib.redirect_stdout(None): cli.main(['--help'])")
    assert loaded.isdisjoint({*HEAVY, "numpy", "pyarrow", "rich"})


def test_looking_at_a_run_and_a_machine_loads_nothing_heavy() -> None:
    loaded = loaded_by("import raypipe.upkeep.standing, raypipe.doctor.examination")
    assert loaded.isdisjoint(HEAVY)
