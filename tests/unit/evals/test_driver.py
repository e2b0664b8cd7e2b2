"""An evaluation from the command line to the table: own and foreign listings, and comparisons."""

import ast
import json
import logging
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import raypipe.catalog.stage as catalog
import raypipe.evaluation.stage as evaluation
from raypipe import config as configuration
from raypipe.attributes.prompts import completion as tagged
from raypipe.catalog.answer_files import open_answers
from raypipe.catalog.sources import LISTINGS_COLUMNS, TRUTH_COLUMNS, open_source
from raypipe.cli.jobs import main
from raypipe.config import Config
from raypipe.embedded.catalog import write_catalog
from raypipe.errors import InputError
from raypipe.evals.driver import EvalDriver
from raypipe.models.policies import ADAPTER_WEIGHTS, PRETRAINED, Policy, policy
from raypipe.runtime import progress
from raypipe.runtime.console import Console
from raypipe.sampling.chains import AnsweredQuery, Chain, chains_table
from raypipe.schemas import CHAINS, LISTINGS, TRUTH
from raypipe.store.artifacts import Attempt, Run, get_or_commit
from raypipe.store.manifest import Commit
from raypipe.store.paths import ATTRIBUTE_SCHEMA
from raypipe.store.runs import open_run
from tests.fakes.chat_server import Asked, ChatServer, completion
from tests.fakes.documents import summary_json

KEY = "sk-canary-77aa"
SIZES = {"num_pool": 2, "num_eval": 6, "num_anchor": 3, "seed_per_vertical": 1}
SMALL = [f"catalog.embedded.{name}={size}" for name, size in SIZES.items()]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(progress.logger, "handlers", list(progress.logger.handlers))
    handler, propagate, level = (
        signal.getsignal(signal.SIGTERM), progress.logger.propagate, progress.logger.level
    )  # fmt: skip
    yield
    signal.signal(signal.SIGTERM, handler)
    progress.logger.propagate = propagate
    logging.getLogger(progress.logger.name).setLevel(level)


def first_option(asked: Asked) -> tuple[int, Any]:
    options = ast.literal_eval(asked.prompt.rsplit("Options: ", 1)[1])
    return completion(tagged(options[0], "so", "reasoning"))


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer(first_option) as server:
        yield server


@pytest.fixture
def foreign(tmp_path: Path) -> list[str]:
    """The files of another catalog, eight listings of which are verified."""
    directory = tmp_path / "foreign"
    write_catalog(str(directory), seed=5, num_pool=2, num_eval=5, num_anchor=3, seed_per_vertical=1)
    return [
        f"evals.listings={directory}/listings.parquet",
        f"evals.truth={directory}/truth.parquet",
    ]


def arguments(tmp_path: Path, server: ChatServer, *more: str) -> list[str]:
    served = [f"evals.endpoint={server.url}", "evals.endpoint_model=shop/m-1"]
    return [*SMALL, f"run.directory={tmp_path}/runs", *served, *more]


def answer(run: Run, asked: Policy, scope: str, listings: str, option: int) -> Commit:
    """Commit chains in which a policy says the option at an index of every query."""
    rows = [
        row
        for row in run.artifact(f"{listings}/listings", LISTINGS).read().to_pylist()
        if row["split"] in ("eval", "anchor")
    ]
    chains = [[_said(query["options"][option]) for query in row["queries"]] for row in rows]
    fingerprint = {"policy_id": asked.policy_id, "round_index": None}

    def make(attempt: Attempt) -> Commit:
        attempt.write(chains_table(rows, chains, asked.policy_id))
        return attempt.commit()

    return get_or_commit(run.artifact(f"{scope}/chains", CHAINS), fingerprint, make)


def _said(option: str) -> AnsweredQuery:
    return AnsweredQuery(Chain(tagged(option, "so", "reasoning"), (1,), -1.0, "stop"), ())


def judge_pretrained(tmp_path: Path) -> Run:
    """The run's base model, judged as a round would: it answers the last option."""
    config = configuration.load(None, [*SMALL, f"run.directory={tmp_path}/runs"])
    run = open_run(config)
    catalog.run(config, run)
    answer(run, policy(run, config.model, PRETRAINED), PRETRAINED, "catalog", -1)
    evaluation.run(config, run, scope=PRETRAINED, with_consensus=False)
    return run


def test_an_endpoint_beside_the_runs_own_policy(
    tmp_path: Path, server: ChatServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run = judge_pretrained(tmp_path)
    asked = arguments(tmp_path, server)
    assert main("evaluate", None, asked) == 0
    shown = capsys.readouterr().out
    assert len(server.asked) == num_queries(run, "catalog")
    (scope,) = scopes(run, "shop-m-1")
    metrics = run.artifact(f"{scope}/evaluation").read_json("metrics.json")["eval"]
    assert metrics["accuracy"] == share_of_first_options(run, "catalog")
    assert re.search(rf"shop-m-1 +│ +{metrics['accuracy']:.3f}", shown)
    assert re.search(r"pretrained +│ +0\.\d{3}", shown)
    assert f"paired on the same {metrics['queries']} queries" in shown
    page = Path(run.path("report", f"evaluation-{scope.rpartition('/')[2]}.html")).read_text()
    assert "pretrained" in page
    assert f"{metrics['accuracy']:.3f}" in page

    server.asked.clear()
    assert main("evaluate", None, asked) == 0
    assert server.asked == []
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    assert KEY not in shown


def test_local_policies_are_judged_and_compared_where_they_answered_the_same(
    tmp_path: Path,
    foreign: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Scripted sampling: the base model on its own and on foreign listings, then an adapter."""
    sampled: list[tuple[str, str, str]] = []

    def scripted(config: Config, run: Run, *, policy: Policy, scope: str, **asked: Any) -> Commit:
        sampled.append((policy.name, scope.partition("-")[0], asked["catalog"].partition("-")[0]))
        return answer(run, policy, scope, asked["catalog"], 0 if policy.name == "tuned" else -1)

    monkeypatch.setattr("raypipe.evals.driver.sampling.run", scripted)
    run = judge_pretrained(tmp_path)
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / ADAPTER_WEIGHTS).write_bytes(b"weights")

    def judge(*overrides: str) -> str:
        config = configuration.load(None, [*SMALL, f"run.directory={tmp_path}/runs", *overrides])
        EvalDriver(config, run, Console()).go()
        return capsys.readouterr().out

    assert "points" not in judge("evals.policy=pretrained")
    assert "points" not in judge("evals.policy=pretrained", *foreign)
    shown = judge(f"evals.policy={tmp_path}/tuned", *foreign)
    assert re.search(r"tuned − pretrained = [+-]\d+\.\d points, .* on the same \d+ queries", shown)
    assert sampled == [  # on its own listings it had been judged before
        ("pretrained", "evaluations/pretrained", "evaluations/catalog"),
        ("tuned", "evaluations/tuned", "evaluations/catalog"),
    ]


def num_queries(run: Run, scope: str) -> int:
    rows = run.artifact(f"{scope}/listings", LISTINGS).read(["split", "queries"]).to_pylist()
    return sum(len(row["queries"]) for row in rows if row["split"] in ("eval", "anchor"))


def share_of_first_options(run: Run, scope: str) -> float:
    truth = {
        row["listing_id"]: {answer["attribute"]: answer["value"] for answer in row["answers"]}
        for row in run.artifact(f"{scope}/truth", TRUTH).read().to_pylist()
    }
    right = [
        truth[row["listing_id"]][query["attribute"]] == query["options"][0]
        for row in run.artifact(f"{scope}/listings", LISTINGS).read().to_pylist()
        if row["split"] == "eval"
        for query in row["queries"]
        if query["attribute"] in truth[row["listing_id"]]
    ]
    return pytest.approx(sum(right) / len(right))  # type: ignore[no-any-return]


def scopes(run: Run, name: str) -> list[str]:
    found = Path(run.path("evaluations")).glob(f"{name}-*")
    return [f"evaluations/{path.name}" for path in found]


def test_foreign_listings_are_judged_by_their_own_truth(
    tmp_path: Path, server: ChatServer, foreign: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = arguments(tmp_path, server, *foreign)
    assert main("evaluate", None, asked) == 0, capsys.readouterr().err
    run = Run(f"{tmp_path}/runs/local")
    (prepared,) = scopes(run, "catalog")
    rows = run.artifact(f"{prepared}/listings", LISTINGS).read(["split"]).to_pylist()
    assert [row["split"] for row in rows] == ["eval"] * 8
    assert len({str(asked.body) for asked in server.asked}) == num_queries(run, prepared)
    (scope,) = scopes(run, "shop-m-1")
    metrics = run.artifact(f"{scope}/evaluation").read_json("metrics.json")
    assert metrics["eval"]["accuracy"] == share_of_first_options(run, prepared)
    assert metrics["anchor"]["accuracy"] is None

    assert main("evaluate", None, arguments(tmp_path, server)) == 0
    assert len(scopes(run, "shop-m-1")) == 2  # the run's own listings are another evaluation


def test_a_truth_without_a_listing_is_named(tmp_path: Path, foreign: list[str]) -> None:
    places = dict(part.removeprefix("evals.").split("=", 1) for part in foreign)
    truth = pq.read_table(places["truth"])
    stranger = pa.table({"listing_id": ["stranger"], "answers": [[]]}, truth.select([0, 1]).schema)
    path = tmp_path / "truth.parquet"
    pq.write_table(pa.concat_tables([truth.select([0, 1]), stranger]), path)
    config = configuration.load(None, [*SMALL, f"run.directory={tmp_path}/runs"])
    run = open_run(config)
    with pytest.raises(InputError, match="1 ids are not among the listings"):
        catalog.run_labeled(
            config,
            run,
            schema=_schema(config, run),
            listings=open_source(places["listings"], LISTINGS_COLUMNS),
            truth=open_answers(str(path), TRUTH_COLUMNS),
        )


def _schema(config: Config, run: Run) -> Any:
    catalog.run(config, run)
    listings = run.artifact("catalog/listings")
    return catalog.AttributeSchema.from_json(listings.read_json(ATTRIBUTE_SCHEMA))


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["evals.endpoint=http://h/v1"], "endpoint and endpoint_model need each other"),
        (["evals.endpoint_model=m"], "endpoint and endpoint_model need each other"),
        (
            ["evals.endpoint=http://h/v1", "evals.endpoint_model=m", "evals.policy=sft"],
            "set one of evals.policy and evals.endpoint",
        ),
        (["evals.listings=l.parquet"], "listings and truth need each other"),
        (["evals.truth=t.parquet"], "listings and truth need each other"),
        (["evals.endpoint=h/v1", "evals.endpoint_model=m"], "an endpoint reads https://host"),
        (
            ["evals.endpoint=http://me:sk-canary-77aa@h/v1", "evals.endpoint_model=m"],
            "name the environment variable that holds it in evals.api_key_variable",
        ),
        (["evals.api_key_variable=sk-canary-77aa"], "evals.api_key_variable: "),
        (["evals.policy=/absent/adapter"], "no directory with adapter_model.safetensors"),
    ],
)
def test_a_wrong_configuration_exits_2_and_shows_no_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], says: str
) -> None:
    assert main("evaluate", None, [f"run.directory={tmp_path}/runs", *overrides]) == 2
    shown = capsys.readouterr().err
    assert says in shown
    assert KEY not in shown


def test_best_needs_a_summary_and_then_means_its_policy(tmp_path: Path) -> None:
    config = configuration.load(None, [f"run.directory={tmp_path}/runs"])
    run = open_run(config)
    with pytest.raises(InputError, match=r"summary\.json"):
        policy(run, config.model, "best")
    run.replace("summary.json", json.dumps(summary_json(best="round-2")).encode())
    assert policy(run, config.model, "best").name == "round-2"
