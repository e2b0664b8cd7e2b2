"""Judges any policy, or a model behind an endpoint, on labeled listings.

    prepare the foreign listings, if there are → ask → judge → compare with the run's own policies

Whoever answers gets the same queries and is measured by the same code as the run's policies. A
policy of the run on the run's own listings has been judged already, and is asked nothing again.
"""

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Sequence
from itertools import count, takewhile
from typing import Any

import raypipe.catalog.stage as catalog
import raypipe.evaluation.stage as evaluation
import raypipe.report.evaluation as report
import raypipe.sampling.stage as sampling
from raypipe.attributes.schema import AttributeSchema, load_attribute_schema
from raypipe.catalog.sources import LISTINGS_COLUMNS, TRUTH_COLUMNS
from raypipe.catalog.tables import Tables
from raypipe.config import Config
from raypipe.models.policies import BEST, PRETRAINED, SFT, Policy, policy, round_name
from raypipe.report.evaluation import EvaluatedPolicy
from raypipe.report.formatting import percent, score
from raypipe.runtime.cluster import ray_session
from raypipe.runtime.console import Console
from raypipe.sampling import endpoint
from raypipe.sampling.actor import SamplingRequest
from raypipe.store.artifacts import Run
from raypipe.store.manifest import plain_fingerprint
from raypipe.store.paths import ATTRIBUTE_SCHEMA, CATALOG, EVALUATION_SCOPE, Paths
from raypipe.store.runs import open_run
from raypipe.summaries import Metrics

OWN = "catalog"
GREEDY = SamplingRequest(
    num_chains=0, greedy=sampling.GREEDY_SPLITS, sampled=frozenset(), seed_parts=()
)


def evaluate(config: Config, console: Console) -> None:
    """Judge what ``evals`` names, and say how it compares.

    Raises:
        RaypipeError: whatever stopped a stage. What was committed stays, and the same call goes on
            from there.
    """
    started = time.time()
    run = open_run(config)
    remote = config.evals.endpoint is not None
    driver = EvalDriver(config, run, console)
    with contextlib.nullcontext() if remote else ray_session(config.cluster):
        page = driver.go()
    console.end(page, time.time() - started)


class EvalDriver:
    """One pass over an evaluation."""

    def __init__(
        self,
        config: Config,
        run: Run,
        console: Console,
        start: sampling.EngineStarter = sampling.start_engine,
    ) -> None:
        self.config = config
        self.run = run
        self.console = console
        self._start = start
        evals = config.evals
        self.policy: Policy | None = None
        if evals.endpoint is None:
            self.policy = policy(run, config.model, evals.policy or BEST)
        self.name = self.policy.name if self.policy else str(evals.endpoint_model)
        place = f" at {evals.endpoint}" if evals.endpoint else ""
        listings = evals.listings or "the eval split of the run"
        console.begin(f"judges {self.name}{place} on {listings}", run.location)

    def go(self) -> str:
        """Every step in its order; returns the address of the page."""
        self.console.run_stage(CATALOG.listings, lambda: catalog.run(self.config, self.run))
        listings = self._catalog()
        scope = self._judge(listings)
        others = [other for other in self._others(listings) if other != scope]
        table = [self._row(scope, None), *(self._row(other, scope) for other in others)]
        print_accuracies(self.console, table)
        return report.write_evaluation_page(self.config, self.run, scope=scope, table=table)

    def _catalog(self) -> str:
        """The scope of the listings that are asked."""
        evals = self.config.evals
        if evals.listings is None or evals.truth is None:
            return OWN
        with Tables(self.config, self.run) as tables:
            listings = tables.open(evals.listings, LISTINGS_COLUMNS)
            truth = tables.answers(evals.truth, TRUTH_COLUMNS)
        scope = catalog.run_labeled(
            self.config, self.run, schema=self._schema(), listings=listings, truth=truth
        )
        name = Paths(scope).listings
        self.console.stage_done(name, self.run.artifact(name).require_commit())
        return scope

    def _schema(self) -> AttributeSchema:
        """The user's schema as it is now; the run's own where the user has given none."""
        given = self.config.catalog.attribute_schema
        if given is not None:
            return load_attribute_schema(given)
        own = self.run.artifact(CATALOG.listings)
        return AttributeSchema.from_json(own.read_json(ATTRIBUTE_SCHEMA))

    def _judge(self, listings: str) -> str:
        """Ask and judge; returns the scope of the evaluation."""
        config, run, asked = self.config, self.run, self.policy
        scope = self._scope(asked, listings)
        if asked is not None and scope == asked.name:
            judged = Paths(scope).evaluation
            self.console.stage_done(judged, run.artifact(judged).require_commit())
            return scope
        self.console.run_stage(
            Paths(scope).chains,
            lambda: (
                endpoint.run(config, run, scope=scope, catalog=listings)
                if asked is None
                else sampling.run(
                    config,
                    run,
                    policy=asked,
                    scope=scope,
                    round_index=None,
                    catalog=listings,
                    start=self._start,
                )
            ),
        )
        self.console.run_stage(
            Paths(scope).evaluation,
            lambda: evaluation.run(
                config,
                run,
                scope=scope,
                with_consensus=False,
                catalog=listings,
            ),
        )
        return scope

    def _scope(self, asked: Policy | None, listings: str) -> str:
        """Where a policy's answers to these listings are; None asks for the endpoint's."""
        if asked is not None and listings == OWN and self._is_own(asked):
            return asked.name
        recipe = endpoint.recipe(self.config) if asked is None else self._recipe(asked)
        values = plain_fingerprint(recipe) | {
            "listings": self.run.artifact(Paths(listings).listings).require_commit().digest
        }
        digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
        name = self.name if asked is None else asked.name
        return Paths.of_evaluation(file_name(name), digest)

    def _others(self, listings: str) -> list[str]:
        """Scopes in which the run's own policies are judged on the same listings."""
        rounds = takewhile(self._is_made, map(round_name, count(1)))
        names = [PRETRAINED, *filter(self._is_made, [SFT]), *rounds]
        scopes = [
            self._scope(policy(self.run, self.config.model, name), listings) for name in names
        ]
        return [scope for scope in scopes if self._is_judged(scope)]

    def _is_made(self, name: str) -> bool:
        return self.run.artifact(Paths(name).adapter).commit() is not None

    def _is_judged(self, scope: str) -> bool:
        return self.run.artifact(Paths(scope).evaluation).commit() is not None

    def _is_own(self, asked: Policy) -> bool:
        """Whether the run has judged these very weights under this name, decoded by this recipe."""
        chains = self.run.artifact(Paths(asked.name).chains).commit()
        if chains is None or not self._is_judged(asked.name):
            return False
        recipe = plain_fingerprint(self._recipe(asked))
        return all(chains.fingerprint.get(key, value) == value for key, value in recipe.items())

    def _recipe(self, asked: Policy) -> dict[str, Any]:
        return sampling.recipe(self.config, asked, GREEDY) | sampling.engine_versions()

    def _row(self, scope: str, evaluated: str | None) -> EvaluatedPolicy:
        metrics = Metrics.of(self.run.artifact(Paths(scope).evaluation))
        gain = None
        if evaluated is not None:
            gain = evaluation.compare(self.config, self.run, before=scope, after=evaluated)
        return EvaluatedPolicy(_policy_name(scope), metrics.eval, gain)


def file_name(name: str) -> str:
    """A policy's or model's name as a part of a path."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "policy"


def _policy_name(scope: str) -> str:
    """The name in an evaluation's scope."""
    found = re.fullmatch(EVALUATION_SCOPE, scope)
    return scope if found is None else found["policy"]


def print_accuracies(console: Console, rows: Sequence[EvaluatedPolicy]) -> None:
    """The evaluated policy first, then the run's own on the same listings, and differences."""
    console.table(
        "Accuracy",
        ("policy", "accuracy", "95 % interval", "macro", "queries", "invalid"),
        map(_accuracy_row, rows),
        caption="macro: each vertical counts the same",
    )
    for row in rows:
        if (gain := row.gain) is not None:
            low, high = (100 * bound for bound in gain.ci95)
            console.line(
                f"{rows[0].name} − {row.name} = {100 * gain.difference:+.1f} points, "
                f"95 % [{low:+.1f}, {high:+.1f}], paired on the same {gain.queries:,} queries"
            )


def _accuracy_row(row: EvaluatedPolicy) -> tuple[str, ...]:
    metrics = row.metrics
    return (
        row.name,
        score(metrics.accuracy),
        " – ".join(map(score, metrics.ci95 or (None,))),
        score(metrics.macro_vertical),
        f"{metrics.queries:,}",
        percent(metrics.invalid),
    )
