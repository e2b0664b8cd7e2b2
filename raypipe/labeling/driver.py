"""Labels a whole catalog with a policy.

    trial: the run's anchor and eval listings are labeled → calibration on anchor, quality on eval
    survey: what does the catalog hold, and what has changed since it was labeled last
    prepare the changed listings → label them → labels, with those that have not changed

Every step is committed, so that the same command begins, resumes and repeats. Asking for another
precision costs no chain: labels are carried over and published anew.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

import raypipe.catalog.stage as catalog
import raypipe.evaluation.labels as evaluation
import raypipe.report.labels as report
import raypipe.sampling.stage as sampling
from raypipe import stream
from raypipe.answers import PARSER_VERSION
from raypipe.artifacts import Artifact, Attempt, Run, committed
from raypipe.attributes import AttributeSchema, load_attribute_schema
from raypipe.catalog import whole
from raypipe.catalog.sources import Source
from raypipe.cluster import ray_session
from raypipe.config import Config
from raypipe.evaluation.confidence import Calibration
from raypipe.labeling.console import LabelingConsole
from raypipe.labeling.estimate import Pace, Work, expected, lines
from raypipe.labeling.generations import (
    Generation,
    generations,
    made_for,
    newest,
    open_generation,
    outdated,
    unchanged,
)
from raypipe.labeling.labels import Labeler, calibrated, label_key
from raypipe.labeling.opening import open_catalog
from raypipe.labeling.review import export_review
from raypipe.manifest import Commit, File, Fingerprint, plain, told_versions
from raypipe.policies import policy
from raypipe.runs import exports_of, open_run
from raypipe.sampling.actor import Draw
from raypipe.schemas import LABELS, LISTINGS, SPLITS

TRIAL_SPLITS = frozenset({"eval", "anchor"})


def label_catalog(config: Config, console: LabelingConsole, *, plan_only: bool) -> None:
    """Label a catalog, or with ``plan_only`` say what it would take.

    Raises:
        RaypipeError: whatever stopped a step. What was committed stays, and the same call goes on
            from there.
    """
    started = time.time()
    run = open_run(config)
    with ray_session(config.cluster):
        driver = Driver(config, run, console)
        if plan_only:
            console.plan(config, driver.plan(), None)
            return
        page = driver.go()
    console.end(page, time.time() - started)


class Driver:
    """One pass over a labeling."""

    def __init__(
        self,
        config: Config,
        run: Run,
        console: LabelingConsole,
        start: sampling.EngineStarter = sampling.start_engine,
    ) -> None:
        self.config = config
        self.run = run
        self.console = console
        self._start = start
        self._stage("catalog/listings", lambda: catalog.run(config, run, any_versions=True))
        self.policy = policy(run, config.model, config.labeling.policy)
        self.schema = self._schema()
        self._draw = draw_of(config)
        law = sampling.law(config, self.policy, self._draw)
        self._versions = told_versions(sampling.engine_versions())
        self._fingerprint = law | {
            "labeling.mode": config.labeling.mode,
            "labeling.constrained": config.labeling.constrained,
            "parser": PARSER_VERSION,
        }
        self._recipe = _digest(self._fingerprint)
        relabel = config.labeling.relabel_versions
        self._made_for = self._versions if relabel else made_for(run, self._recipe)
        if self._made_for is not None:
            self._fingerprint |= {"labeling.made_for": self._made_for}
        self._law = _digest(self._fingerprint)
        self._trial = f"labels/{self._law[:12]}"
        console.begin(config, self.policy, run.location)

    def plan(self) -> Work:
        """What is left to do, from a survey of the catalog; nothing is sampled."""
        survey = self._survey()
        previous = newest(self.run, generations(self.run))
        kept = unchanged(previous, self._keys(survey))
        self._tell_versions(previous, kept)
        return self._expected(_but(survey, kept))

    def go(self) -> str:
        """Every step in its order; returns the address of the report."""
        config, run = self.config, self.run
        self._stage(f"{self._trial}/trial", self._run_trial)
        generation = self._generation()
        scope = generation.scope
        self._stage(
            f"{scope}/calibration",
            lambda: evaluation.calibrate(config, run, trial=self._trial, scope=scope),
        )
        self._stage(
            f"{scope}/quality",
            lambda: evaluation.judge(config, run, trial=self._trial, scope=scope),
        )
        survey = self._survey()
        kept = unchanged(generation.previous, self._keys(survey))
        self._tell_versions(generation.previous, kept)
        changed = _but(survey, kept)
        name = self._prepared(scope, changed)
        planned = self._expected(changed)
        self.console.plan(config, planned, None)
        commit = self._stage(
            f"{scope}/labels", lambda: self._run_labels(generation, name, survey, kept)
        )
        return self._report(generation, commit, planned)

    def _expected(self, left: pa.Table) -> Work:
        """What labeling the surveyed listings should take."""
        return expected(
            self.config,
            listings=len(left),
            queries=pc.sum(left.column("queries")).as_py() or 0,
            chains_per_query=max(1, self._draw.num_chains),
            pace=pace_of(self.config, self._chain_commits()),
        )

    def _tell_versions(self, previous: Artifact | None, kept: pa.Array) -> None:
        """Say how many labels are kept that other versions made, and how to have them anew."""
        if previous is None or not len(kept):
            return
        others = outdated(previous, kept, self._versions)
        if others:
            self.console.note(
                f"{others.total():,} labels are kept that were made with other versions than "
                f"{self._versions} ({'; '.join(sorted(others))}); labeling.relabel_versions=true "
                "makes all labels again"
            )

    def _run_trial(self) -> Commit:
        listings = self.run.artifact("catalog/listings", LISTINGS)
        fingerprint = self._fingerprint | {"upstream.listings": listings.required().digest}

        def make(attempt: Attempt) -> Commit:
            plan = self._asked(listings.name, TRIAL_SPLITS, self._labeler(), stream.NO_IDS)
            return self._streamed(attempt, [plan])

        return committed(self.run.artifact(f"{self._trial}/trial", LABELS), fingerprint, make)

    def _run_labels(
        self, generation: Generation, name: str, survey: pa.Table, kept: pa.Array
    ) -> Commit:
        """The labels of a generation: new ones of ``name``, and the ``kept`` ones."""
        run, scope = self.run, generation.scope
        upstream = [f"{scope}/calibration", name]
        fingerprint = self._fingerprint | {
            f"upstream.{part.rsplit('/', 1)[1]}": run.artifact(part).required().digest
            for part in upstream
        }
        previous = generation.previous
        if previous is not None:
            fingerprint |= {"upstream.labels": previous.required().digest}
        labeler = self._labeler(*self._calibration(scope))
        # What prepare refused has a row in its own quarantine.
        gone = pa.concat_arrays([kept, _refused(run, name)])

        def make(attempt: Attempt) -> Commit:
            plans = [self._asked(name, frozenset(SPLITS), labeler, gone)]
            if previous is not None and len(kept):
                carry = partial(_carry, previous, *self._calibration(scope))
                plans.insert(0, _carried(previous, carry, kept))
            return self._streamed(attempt, plans, {"carried": len(kept)})

        return committed(generation.labels(run), fingerprint, make)

    def _asked(
        self, name: str, splits: frozenset[str], labeler: Labeler, leave_out: pa.Array
    ) -> stream.Plan:
        own = name == "catalog/listings"
        return sampling.plan(
            self.config,
            self.run.artifact(name, LISTINGS),
            splits=splits,
            start=self._start,
            policy=self.policy,
            draw=self._draw,
            present=labeler,
            leave_out=leave_out,
            columns=sampling.COLUMNS if own else [*sampling.COLUMNS, "source_key"],
        )

    def _streamed(
        self,
        attempt: Attempt,
        plans: list[stream.Plan],
        counts: dict[str, int] | None = None,
    ) -> Commit:
        return stream.run(
            attempt,
            plans,
            demand=sampling.demand(self.config),
            max_refused=self.config.catalog.max_quarantined,
            counts=counts,
        )

    @cached_property
    def _source(self) -> Source | None:
        """The catalog to label, opened once: a table may move on between two looks at it. None is
        the run's own."""
        return open_catalog(self.config, self.run, self._request(), self.console.note)

    def _survey(self) -> pa.Table:
        if self._source is None:
            return whole.survey_prepared(self.run, "catalog/listings")
        return whole.survey(self._source, self.schema)

    def _prepared(self, scope: str, changed: pa.Table) -> str:
        """The artifact of the listings to label."""
        source = self._source
        if source is None:
            return "catalog/listings"
        name = f"{scope}/listings"
        self._stage(
            name,
            lambda: whole.run_changed(
                self.config,
                self.run,
                scope=scope,
                source=source,
                schema=self.schema,
                todo=changed,
            ),
        )
        return name

    def _generation(self) -> Generation:
        place: Any
        if self._source is None:
            place = self.run.artifact("catalog/listings").required().digest
        else:
            place = self._source.identity()
        return open_generation(self.run, self._request() | {"listings": place})

    def _request(self) -> dict[str, Any]:
        """What a generation belongs to, but for the listings."""
        return {
            "law": self._law,
            "recipe": self._recipe,
            "made_for": self._made_for,
            "precision": self.config.labeling.precision,
            "schema": self.schema.to_json(),
            "image_size": self.config.catalog.image_size,
            "max_images": self.config.catalog.max_images,
        }

    def _schema(self) -> AttributeSchema:
        """The user's schema as it is now; the run's own where the catalog is the run's own."""
        config = self.config
        if config.labeling.listings is not None and config.catalog.attribute_schema is not None:
            return load_attribute_schema(config.catalog.attribute_schema)
        listings = self.run.artifact("catalog/listings")
        return AttributeSchema.from_json(listings.read_json(catalog.SCHEMA_FILE))

    def _keys(self, survey: pa.Table) -> pa.Table:
        rows = (survey.column(name).to_pylist() for name in ("source_key", "vertical"))
        known = {name: self.schema.attributes(name) for name in self.schema.verticals}
        keys = [
            label_key(key, self._law, known.get(vertical, ()))
            for key, vertical in zip(*rows, strict=True)
        ]
        return pa.table({"listing_id": survey.column("listing_id"), "label_key": keys})

    def _labeler(
        self, calibration: Calibration | None = None, threshold: float | None = None
    ) -> Labeler:
        return Labeler(
            schema=self.schema,
            mode=self.config.labeling.mode,
            num_chains=max(1, self._draw.num_chains),
            answer_format=self.config.model.answer_format,
            policy_id=self.policy.policy_id,
            law=self._law,
            versions=self._versions,
            calibration=calibration,
            threshold=threshold,
        )

    def _calibration(self, scope: str) -> tuple[Calibration, float | None]:
        values = self.run.artifact(f"{scope}/calibration").read_json("calibration.json")
        return Calibration.from_json(values["steps"]), values["threshold"]

    def _chain_commits(self) -> list[Commit]:
        """Commits that say how fast chains were made, the most telling last."""
        names = (f"{self.policy.name}/chains", f"{self._trial}/trial")
        found = (self.run.artifact(name).commit() for name in names)
        return [commit for commit in found if commit is not None]

    def _report(self, generation: Generation, commit: Commit, planned: Work) -> str:
        counts = commit.counts
        done = Work(
            listings=counts["listings"] - counts["carried"],
            queries=int(counts.get("queries", 0)),
            chains=int(counts.get("chains", 0)),
            tokens=counts.get("tokens", 0),
            seconds=commit.seconds * self.config.sampling.num_actors,
        )
        self.console.plan(self.config, planned, done)
        outcomes: Counter[str] = Counter()
        for table in generation.labels(self.run).read_files(["outcome"]):
            for count in pc.value_counts(table.column("outcome")).to_pylist():
                outcomes[count["values"]] += count["counts"]
        self.console.outcomes(outcomes)
        return report.write(
            self.config,
            self.run,
            scope=generation.scope,
            policy=self.policy.name,
            taken={
                "listings": counts["listings"],
                "queries": sum(outcomes.values()),
                "chains": done.chains,
                "seconds": commit.seconds,
                "carried": counts["carried"],
                "refused": commit.quarantined,
                "outcomes": dict(outcomes),
                "table": lines(planned, done, self.config),
            },
        )

    def _stage(self, name: str, work: Callable[[], Commit]) -> Commit:
        self.console.stage(name)
        commit = work()
        self.console.committed(name, commit)
        return commit


def export_labels(config: Config, run: Run) -> Path | None:
    """Export the newest labels for people as Label Studio tasks, below the run's exports; None
    without labels."""
    labels = newest(run, generations(run))
    if labels is None:
        return None
    scope = labels.name.rpartition("/")[0]
    own = run.artifact(f"{scope}/listings", LISTINGS)
    listings = own if own.commit() else run.artifact("catalog/listings", LISTINGS)
    target, labeling = exports_of(config, run) / scope, config.labeling
    return export_review(
        labels, listings, target, labeling.num_reviews, labeling.review_order, config.run.seed
    )


def draw_of(config: Config) -> Draw:
    """Which chains a label is made of."""
    vote = config.labeling.mode == "vote"
    everything = frozenset(SPLITS)
    return Draw(
        num_chains=config.sampling.num_chains if vote else 0,
        greedy=frozenset() if vote else everything,
        sampled=everything if vote else frozenset(),
        seed_parts=(config.run.seed, "label"),
        constrained=config.labeling.constrained,
    )


def pace_of(config: Config, commits: list[Commit]) -> Pace | None:
    """The pace of the last of these commits that made chains."""
    for commit in reversed(commits):
        chains, tokens = commit.counts.get("chains", 0), commit.counts.get("tokens", 0)
        if chains and commit.seconds:
            engine_seconds = commit.seconds * config.sampling.num_actors
            return Pace(tokens / chains, chains / engine_seconds)
    return None


def _but(survey: pa.Table, ids: pa.Array) -> pa.Table:
    return survey.filter(pc.invert(pc.is_in(survey.column("listing_id"), ids)))


def _refused(run: Run, name: str) -> pa.Array:
    """Listings that were refused when ``name`` was prepared: they are not in its rows."""
    ids = run.artifact(name, LISTINGS).read(["id"], kind="quarantine").column("id")
    return ids.combine_chunks() if len(ids) else stream.NO_IDS


def _digest(fingerprint: Fingerprint) -> str:
    canonical = json.dumps(plain(fingerprint), sort_keys=True)
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()


def _carried(previous: Artifact, carry: Callable[..., pa.Table], kept: pa.Array) -> stream.Plan:
    """Labels that still hold, one file after the other, so that a listing's stay together."""

    def source(done: pa.Array) -> Any:
        import ray.data

        return ray.data.from_items([asdict(file) for file in previous.files()]), done

    def transform(given: Any, write: stream.Write) -> Any:
        dataset, done = given
        left = kept.filter(pc.invert(pc.is_in(kept, done))) if len(done) else kept
        return dataset.map_batches(
            partial(carry, stream.ordered(left), write), batch_format="pyarrow", batch_size=1
        )

    return stream.Plan(source, transform, kept)


def _carry(
    previous: Artifact,
    calibration: Calibration,
    threshold: float | None,
    ids: Any,
    write: stream.Write,
    batch: pa.Table,
) -> pa.Table:
    (file,) = batch.to_pylist()
    kept = stream.among(ids, previous.rows_of(File(**file)), keep=True)
    return write(stream.Outcome(calibrated(kept, calibration, threshold)))
