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
from collections.abc import Callable
from itertools import count, takewhile
from typing import Any

import raypipe.catalog.stage as catalog
import raypipe.evaluation.stage as evaluation
import raypipe.report.evaluation as report
import raypipe.sampling.stage as sampling
from raypipe.artifacts import Run
from raypipe.attributes import AttributeSchema, load_attribute_schema
from raypipe.catalog.sources import LISTINGS_COLUMNS, TRUTH_COLUMNS
from raypipe.catalog.tables import Tables
from raypipe.cluster import ray_session
from raypipe.config import Config
from raypipe.judging.console import JudgingConsole
from raypipe.manifest import Commit, plain
from raypipe.policies import BEST, PRETRAINED, SFT, Policy, policy, round_name
from raypipe.runs import open_run
from raypipe.sampling import endpoint
from raypipe.sampling.actor import Draw

OWN = "catalog"
GREEDY = Draw(num_chains=0, greedy=sampling.GREEDY_SPLITS, sampled=frozenset(), seed_parts=())


def evaluate(config: Config, console: JudgingConsole) -> None:
    """Judge what ``judging`` names, and say how it compares.

    Raises:
        RaypipeError: whatever stopped a stage. What was committed stays, and the same call goes on
            from there.
    """
    started = time.time()
    run = open_run(config)
    remote = config.judging.endpoint is not None
    driver = Driver(config, run, console)
    with contextlib.nullcontext() if remote else ray_session(config.cluster):
        page = driver.go()
    console.end(page, time.time() - started)


class Driver:
    """One pass over an evaluation."""

    def __init__(
        self,
        config: Config,
        run: Run,
        console: JudgingConsole,
        start: sampling.EngineStarter = sampling.start_engine,
    ) -> None:
        self.config = config
        self.run = run
        self.console = console
        self._start = start
        judging = config.judging
        self.policy: Policy | None = None
        if judging.endpoint is None:
            self.policy = policy(run, config.model, judging.policy or BEST)
        self.name = self.policy.name if self.policy else str(judging.endpoint_model)
        console.begin(config, self.name, run.location)

    def go(self) -> str:
        """Every step in its order; returns the address of the page."""
        self._stage("catalog/listings", lambda: catalog.run(self.config, self.run))
        listings = self._catalog()
        scope = self._judge(listings)
        others = [other for other in self._others(listings) if other != scope]
        table = [self._row(scope, None), *(self._row(other, scope) for other in others)]
        self.console.table(table)
        return report.write(self.config, self.run, scope=scope, table=table)

    def _catalog(self) -> str:
        """The scope of the listings that are asked."""
        judging = self.config.judging
        if judging.listings is None or judging.truth is None:
            return OWN
        with Tables(self.config, self.run) as tables:
            listings = tables.open(judging.listings, LISTINGS_COLUMNS)
            truth = tables.answers(judging.truth, TRUTH_COLUMNS)
        scope = catalog.run_labeled(
            self.config, self.run, schema=self._schema(), listings=listings, truth=truth
        )
        name = f"{scope}/listings"
        self.console.committed(name, self.run.artifact(name).required())
        return scope

    def _schema(self) -> AttributeSchema:
        """The user's schema as it is now; the run's own where the user has given none."""
        given = self.config.catalog.attribute_schema
        if given is not None:
            return load_attribute_schema(given)
        own = self.run.artifact("catalog/listings")
        return AttributeSchema.from_json(own.read_json(catalog.SCHEMA_FILE))

    def _judge(self, listings: str) -> str:
        """Ask and judge; returns the scope of the evaluation."""
        config, run, asked = self.config, self.run, self.policy
        scope = self._scope(asked, listings)
        if asked is not None and scope == asked.name:
            judged = f"{scope}/evaluation"
            self.console.committed(judged, run.artifact(judged).required())
            return scope
        self._stage(
            f"{scope}/chains",
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
        self._stage(
            f"{scope}/evaluation",
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
        law = endpoint.law(self.config) if asked is None else self._law(asked)
        values = plain(law) | {
            "listings": self.run.artifact(f"{listings}/listings").required().digest
        }
        digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
        name = self.name if asked is None else asked.name
        return f"evaluations/{file_name(name)}-{digest[:12]}"

    def _others(self, listings: str) -> list[str]:
        """Scopes in which the run's own policies are judged on the same listings."""
        rounds = takewhile(self._is_made, map(round_name, count(1)))
        names = [PRETRAINED, *filter(self._is_made, [SFT]), *rounds]
        scopes = [
            self._scope(policy(self.run, self.config.model, name), listings) for name in names
        ]
        return [scope for scope in scopes if self._is_judged(scope)]

    def _is_made(self, name: str) -> bool:
        return self.run.artifact(f"{name}/adapter").commit() is not None

    def _is_judged(self, scope: str) -> bool:
        return self.run.artifact(f"{scope}/evaluation").commit() is not None

    def _is_own(self, asked: Policy) -> bool:
        """Whether the run has judged these very weights under this name, decoded by this law."""
        chains = self.run.artifact(f"{asked.name}/chains").commit()
        if chains is None or not self._is_judged(asked.name):
            return False
        law = plain(self._law(asked))
        return all(chains.fingerprint.get(key, value) == value for key, value in law.items())

    def _law(self, asked: Policy) -> dict[str, Any]:
        return sampling.law(self.config, asked, GREEDY) | sampling.engine_versions()

    def _row(self, scope: str, judged: str | None) -> dict[str, Any]:
        """Metrics of the eval split, and by how much the judged policy is ahead."""
        metrics = self.run.artifact(f"{scope}/evaluation").read_json(evaluation.METRICS)
        gain = None
        if judged is not None:
            gain = evaluation.compare(self.config, self.run, before=scope, after=judged)
        return {"name": _said(scope), "gain": gain, **metrics["eval"]}

    def _stage(self, name: str, work: Callable[[], Commit]) -> Commit:
        self.console.stage(name)
        commit = work()
        self.console.committed(name, commit)
        return commit


def file_name(name: str) -> str:
    """A policy's or model's name as a part of a path."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "policy"


def _said(scope: str) -> str:
    """The name in an evaluation's scope."""
    if not scope.startswith("evaluations/"):
        return scope
    return scope.removeprefix("evaluations/").rpartition("-")[0]
