"""Labels a whole catalog with a policy.

    calibration run: the run's anchor and eval listings are labeled; calibration on anchor, quality
    on eval
    survey: what does the catalog hold, and what has changed since it was labeled last
    prepare the changed listings → label them → labels, with those that have not changed

Every step is committed, so that the same command begins, resumes and repeats. Calibration and
quality are a decision on the labels: another precision is another decision, and no label is made or
copied.
"""

import hashlib
import json
import time
from collections import Counter
from functools import cached_property, partial
from typing import Any

import raypipe.catalog.stage as catalog
import raypipe.evaluation.labels as evaluation
import raypipe.report.labels as report
import raypipe.sampling.stage as sampling
from raypipe.attributes.parser import PARSER_VERSION
from raypipe.attributes.schema import AttributeSchema, load_attribute_schema
from raypipe.catalog.distributed import CatalogReader, PreparedReader, SourceReader
from raypipe.catalog.sources import Source
from raypipe.config import Config
from raypipe.exports.sinks import write_sink
from raypipe.labeling.catalog_labels import CatalogLabels, OpenLabels, tell_outdated
from raypipe.labeling.console import compared, print_cost
from raypipe.labeling.label_versions import (
    LabelVersion,
    label_versions,
    made_for,
    newest,
    open_label_version,
    set_decision,
)
from raypipe.labeling.labels import Labeler
from raypipe.labeling.opening import open_catalog
from raypipe.labeling.published_counts import PublishedCounts, count_published
from raypipe.labeling.published_parts import published_parts
from raypipe.models.policies import policy
from raypipe.runtime import stream
from raypipe.runtime.cluster import ray_session
from raypipe.runtime.console import Console
from raypipe.runtime.cost import Cost, WorkItem, expected_cost, measured_pace, num_engines
from raypipe.runtime.parts import PartStore
from raypipe.sampling.actor import SamplingRequest
from raypipe.schemas import LABELS, LISTINGS, SPLITS
from raypipe.store.artifacts import Attempt, Run, get_or_commit
from raypipe.store.manifest import Commit, Fingerprint, plain_fingerprint, told_versions
from raypipe.store.paths import ATTRIBUTE_SCHEMA, CATALOG, LABEL_SHARDS, Paths
from raypipe.store.runs import open_run

TRIAL_SPLITS = frozenset({"eval", "anchor"})


def label_catalog(config: Config, console: Console, *, plan_only: bool) -> None:
    """Label a catalog, or with ``plan_only`` say what it would take.

    Raises:
        RaypipeError: whatever stopped a step. What was committed stays, and the same call goes on
            from there.
    """
    started = time.time()
    run = open_run(config)
    with ray_session(config.cluster):
        driver = LabelingDriver(config, run, console)
        if plan_only:
            print_cost(console, config, driver.plan())
            return
        page = driver.go()
    console.end(page, time.time() - started)


class LabelingDriver:
    """One pass over a labeling."""

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
        self.console.run_stage(
            CATALOG.listings, lambda: catalog.run(config, run, any_versions=True)
        )
        self.policy = policy(run, config.model, config.labeling.policy)
        self.schema = self._schema()
        self._draw = draw_of(config)
        self._versions = told_versions(sampling.engine_versions())
        self._fingerprint = {
            **sampling.recipe(config, self.policy, self._draw),
            **config.fingerprint_keys("labels"),
            "parser": PARSER_VERSION,
        }
        self._recipe = _digest(self._fingerprint)
        relabel = config.labeling.relabel_versions
        self._made_for = self._versions if relabel else made_for(run, self._recipe)
        if self._made_for is not None:
            self._fingerprint |= {"labeling.made_for": self._made_for}
        self._outcome_fingerprint = _digest(self._fingerprint)
        self._calibration_scope = Paths.of_calibration_run(self._outcome_fingerprint)
        labeling = config.labeling
        listings = labeling.listings or "the run's own listings"
        console.begin(
            f"labels {listings} with {self.policy.name} "
            f"({labeling.mode}, precision {labeling.precision:g})",
            run.location,
        )

    def plan(self) -> Cost:
        """What is left to do, from a survey of the catalog; nothing is sampled."""
        labels = self.catalog.open(None, newest(self.run, label_versions(self.run)))
        tell_outdated(labels, self._versions, self.console.note)
        return self._expected(labels)

    def go(self) -> str:
        """Every step in its order; returns the address of the report."""
        config, run = self.config, self.run
        self.console.run_stage(
            Paths(self._calibration_scope).calibration_run, self._calibration_run
        )
        label_version = self._label_version()
        scope = label_version.scope
        decision = self._decision(scope)
        planned: list[Cost] = []
        commit = self.console.run_stage(
            Paths(scope).labels, lambda: self._run_labels(label_version, planned)
        )
        self.console.run_stage(
            decision.published,
            lambda: count_published(run, label_version.labels(run), decision),
        )
        digest = decision.rpartition("/")[2]
        if set_decision(run, scope, digest) and commit.reused:
            self.console.note(
                f"{scope} is complete: only the decision on what is published is new "
                f"(precision {config.labeling.precision:g})"
            )
        self._write_sink(label_version, decision)
        return self._report(label_version, decision, commit, planned[0] if planned else None)

    def _write_sink(self, label_version: LabelVersion, decision: Paths) -> None:
        """Publish the labels where ``labeling.sink`` says."""
        labels = label_version.labels(self.run)
        parts = published_parts(self.run, labels, decision)
        result = write_sink(self.config, parts, label_version.scope)
        if result is not None:
            self.console.note(
                f"{result.location}: {result.rows_written:,} rows of {result.parts_written:,} "
                f"parts written, {result.parts_skipped:,} parts had not changed"
            )

    def _decision(self, scope: str) -> Paths:
        """The scope of what is published of a label version at the precision asked for."""
        config, run, source = self.config, self.run, self._calibration_scope
        depends_on = evaluation.decision_fingerprint(config, run, calibration_run=source)
        decision = Paths.of_decision(scope, _digest(depends_on))
        for name, work in (
            (decision.calibration, evaluation.calibrate),
            (decision.quality, evaluation.measure_quality),
        ):
            make = partial(work, config, run, calibration_run=source, scope=decision)
            self.console.run_stage(name, make)
        return decision

    def _expected(self, labels: OpenLabels) -> Cost:
        """What the labels that are left should take."""
        names = (Paths(self._calibration_scope).calibration_run, Paths(self.policy.name).chains)
        pace = measured_pace(self.config, (self.run.artifact(name).commit() for name in names))
        left, queries = labels.left, labels.queries(self.schema)
        chains = queries * max(1, self._draw.num_chains)
        item = WorkItem("labels", listings=left.total - left.done, queries=queries, chains=chains)
        return expected_cost(self.config, [item], pace)

    def _calibration_run(self) -> Commit:
        listings = self.run.artifact(CATALOG.listings, LISTINGS)
        fingerprint = self._fingerprint | {"upstream.listings": listings.require_commit().digest}

        def make(attempt: Attempt) -> Commit:
            plan = sampling.sampling_plan(
                self.config,
                listings,
                splits=TRIAL_SPLITS,
                start=self._start,
                policy=self.policy,
                request=self._draw,
                make_rows=self._labeler(),
            )
            return stream.run(
                attempt,
                plan,
                resources=sampling.actor_resources(self.config),
                max_refused=self.config.catalog.max_quarantined,
                counts={"engines": sampling.num_engines(self.config)},
            )

        return get_or_commit(
            self.run.artifact(Paths(self._calibration_scope).calibration_run, LABELS),
            fingerprint,
            make,
        )

    def _run_labels(self, label_version: LabelVersion, planned: list[Cost]) -> Commit:
        """The labels of a label version; what they should take goes to ``planned``."""
        config = self.config
        fingerprint = self._fingerprint | {"upstream.listings": _digest({"place": self._place})}

        def make(attempt: Attempt) -> Commit:
            labels = self.catalog.open(label_version.scope, label_version.previous)
            tell_outdated(labels, self._versions, self.console.note)
            planned.append(self._expected(labels))
            print_cost(self.console, config, planned[0])
            pool = sampling.EnginePool(
                config, self._start, self.policy, self._draw, self._labeler()
            )
            return self.catalog.commit(
                attempt,
                labels,
                pool,
                sampling.actor_resources(config),
                {"engines": sampling.num_engines(config)},
            )

        return get_or_commit(label_version.labels(self.run), fingerprint, make)

    @cached_property
    def _source(self) -> Source | None:
        """The catalog to label, opened once: a table may move on between two looks at it. None is
        the run's own."""
        return open_catalog(self.config, self.run, self._request(), self.console.note)

    @cached_property
    def _reader(self) -> CatalogReader:
        if self._source is None:
            return PreparedReader(self.run.artifact(CATALOG.listings, LISTINGS))
        return SourceReader(self._source, self.schema, self.config.catalog)

    @property
    def shard_recipe(self) -> dict[str, Any]:
        """What the labels of a shard depend on beside the catalog."""
        return {
            "fingerprint": self._outcome_fingerprint,
            **self.config.fingerprint_keys("images"),
            "schema": self.schema.to_json(),
        }

    @cached_property
    def catalog(self) -> CatalogLabels:
        """The labels of the catalog, shard by shard."""
        store = PartStore(self.run, LABEL_SHARDS, LABELS, self.policy.policy_id)
        return CatalogLabels(
            self.config,
            self.run,
            self._reader,
            store,
            self.schema,
            self._outcome_fingerprint,
            _digest(self.shard_recipe),
        )

    @cached_property
    def _place(self) -> Any:
        """What tells whether the catalog has changed."""
        source, own = self._source, self.run.artifact(CATALOG.listings)
        place: Any = own.require_commit().digest if source is None else source.identity
        images = self.catalog.image_files
        return [*place, _digest({"images": images})] if images else place

    def _label_version(self) -> LabelVersion:
        return open_label_version(self.run, self._request() | {"listings": self._place})

    def _request(self) -> dict[str, Any]:
        """What a label version belongs to, but for the listings."""
        return {
            "recipe": self._recipe,
            "made_for": self._made_for,
            **self.shard_recipe,
        }

    def _schema(self) -> AttributeSchema:
        """The user's schema as it is now; the run's own where the catalog is the run's own."""
        config = self.config
        if config.labeling.listings is not None and config.catalog.attribute_schema is not None:
            return load_attribute_schema(config.catalog.attribute_schema)
        listings = self.run.artifact(CATALOG.listings)
        return AttributeSchema.from_json(listings.read_json(ATTRIBUTE_SCHEMA))

    def _labeler(self) -> Labeler:
        return Labeler(
            schema=self.schema,
            mode=self.config.labeling.mode,
            num_chains=max(1, self._draw.num_chains),
            answer_format=self.config.model.answer_format,
            policy_id=self.policy.policy_id,
            outcome_fingerprint=self._outcome_fingerprint,
            versions=self._versions,
        )

    def _report(
        self,
        label_version: LabelVersion,
        decision: Paths,
        commit: Commit,
        planned: Cost | None,
    ) -> str:
        counts = commit.counts
        took = Cost(
            listings=counts["listings"] - counts["carried"],
            queries=int(counts.get("queries", 0)),
            chains=int(counts.get("chains", 0)),
            tokens=counts.get("tokens", 0),
            engine_hours=commit.seconds * num_engines(self.config, commit) / 3600,
        )
        if planned is not None:
            print_cost(self.console, self.config, planned, took)
        reasons = Counter(PublishedCounts.of(self.run.artifact(decision.published)).reasons)
        total = reasons.total()
        rows = (
            (name.replace("_", " "), f"{count:,}", f"{count / total:.1%}")
            for name, count in reasons.most_common()
        )
        self.console.table("Labels", ("reason", "labels", "share"), rows)
        return report.write_labels_page(
            self.config,
            self.run,
            scope=label_version.scope,
            decision=decision,
            policy=self.policy.name,
            taken={
                "listings": counts["listings"],
                "queries": sum(reasons.values()),
                "chains": took.chains,
                "seconds": commit.seconds,
                "carried": counts["carried"],
                "refused": commit.quarantined,
                "reasons": dict(reasons),
                "table": compared(planned, took, self.config) if planned else [],
            },
        )


def draw_of(config: Config) -> SamplingRequest:
    """Which chains a label is made of."""
    vote = config.labeling.mode == "vote"
    everything = frozenset(SPLITS)
    return SamplingRequest(
        num_chains=config.sampling.num_chains if vote else 0,
        greedy=frozenset() if vote else everything,
        sampled=everything if vote else frozenset(),
        seed_parts=(config.run.seed, "label"),
        constrained=config.labeling.constrained,
        logprobs=True,
    )


def _digest(fingerprint: Fingerprint) -> str:
    canonical = json.dumps(plain_fingerprint(fingerprint), sort_keys=True)
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()
