"""Imports point one way, from jobs down to errors; what is heavy is imported where it is used.

Stages share ``raypipe/schemas.py``, ``raypipe/summaries.py`` and the disk, never each other's code.
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


# Lowest first. A package, or a loose module, imports what stands in a lower layer; those that share
# a layer do not import each other.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("security",),
    ("errors",),
    ("schemas", "seeds", "storage"),
    ("config",),
    ("store",),
    ("summaries",),
    ("attributes", "models"),
    ("trust",),
    ("runtime",),
    ("embedded",),
    ("catalog", "consensus", "evaluation", "report", "sampling", "training"),
    ("annotation", "evals", "exports", "ingest", "review"),
    ("experiments", "labeling", "rounds"),
    ("api", "doctor", "maintenance"),
    ("cli",),
)
LAYER_OF = {name: layer for layer, names in enumerate(LAYERS) for name in names}
TOP = sorted(
    {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES} - {"__init__"}
)


def imported_tops(path: Path) -> set[str]:
    """Packages and loose modules of raypipe that a file imports."""
    names = {name.split(".")[1] for name in imports(path) if name.startswith("raypipe.")}
    return names & set(TOP)


def imports_upward(top: str, layers: dict[str, int]) -> list[str]:
    """What a package or loose module imports that does not stand below it."""
    files = [PACKAGE / f"{top}.py", *sorted((PACKAGE / top).rglob("*.py"))]
    return [
        f"{label(path)} imports raypipe.{other}"
        for path in files
        if path.exists()
        for other in sorted(imported_tops(path) - {top})
        if layers[other] >= layers[top]
    ]


def test_every_package_and_loose_module_has_a_layer() -> None:
    assert set(TOP) == set(LAYER_OF)
    assert len(LAYER_OF) == sum(map(len, LAYERS))


def test_the_stages_share_a_layer() -> None:
    assert len({LAYER_OF[stage] for stage in STAGES}) == 1


@pytest.mark.parametrize("top", TOP)
def test_imports_point_to_lower_layers(top: str) -> None:
    assert imports_upward(top, LAYER_OF) == []


def test_at_most_six_modules_are_loose() -> None:
    loose = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert loose <= {"errors", "schemas", "summaries", "seeds", "storage", "api"}


def test_jobs_know_the_command_line_alone() -> None:
    for path in sorted((ROOT / "jobs").glob("*.py")):
        own = {name for name in imports(path) if name.startswith("raypipe")}
        assert own == {
            "raypipe.cli.jobs",
            "raypipe.cli.jobs.main",
            "raypipe.runtime.interruption",
            "raypipe.runtime.interruption.stoppable",
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
        "import raypipe.cli.jobs, raypipe.config",
        "import raypipe.rounds.driver",
        "import raypipe.evals.driver",
    ],
)
def test_what_answers_before_the_work_begins_loads_nothing_heavy(statement: str) -> None:
    assert loaded_by(statement).isdisjoint(HEAVY)


def test_help_loads_neither_arrow_nor_anything_heavy() -> None:
    call = "raypipe.cli.jobs.main('round', None, ['no.such.key=1'])"
    loaded = loaded_by(f"import raypipe.cli.jobs; assert {call} == 2")
    assert loaded.isdisjoint({*HEAVY, "numpy", "pyarrow"})


def test_importing_the_package_loads_none_of_its_modules() -> None:
    loaded = loaded_by("import raypipe; dir(raypipe)")
    assert {name for name in loaded if name.startswith("raypipe")} == {"raypipe"}
    assert loaded.isdisjoint({*HEAVY, "numpy", "pyarrow"})


def test_the_python_api_needs_neither_ray_nor_vllm() -> None:
    modules = ("shared_prefix", "loss", "trees", "packing", "examples")
    imported_there = ", ".join(f"raypipe.training.{name}" for name in modules)
    assert "torch" not in loaded_by("import raypipe; raypipe.vote, raypipe.chain_logprobs")
    loaded = loaded_by(f"import raypipe.api, {imported_there}")
    assert "torch" in loaded
    assert loaded.isdisjoint({"ray", "vllm", "deepspeed"})


def test_nothing_of_the_package_takes_its_python_api() -> None:
    found = {label(path) for path in MODULES if takes(path, "raypipe.api")}
    assert found == {"raypipe/__init__.py"}


def test_the_command_line_explains_itself_without_arrow_or_anything_heavy() -> None:
    code = "import contextlib, raypipe.cli.main as cli\nwith contextlib.suppress(SystemExit):\n"
    loaded = loaded_by(f"{code}    with contextlib.redirect_stdout(None): cli.main(['--help'])")
    assert loaded.isdisjoint({*HEAVY, "numpy", "pyarrow", "rich"})


def test_looking_at_a_run_and_a_machine_loads_nothing_heavy() -> None:
    loaded = loaded_by("import raypipe.maintenance.status, raypipe.doctor.checks")
    assert loaded.isdisjoint(HEAVY)
