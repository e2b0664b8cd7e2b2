"""The model card of a policy that leaves its run: an adapter, or weights with it merged in.

It says what the run's commits say and names no directory of the machine that it was made on.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from raypipe.attributes.prompts import SYSTEM_PROMPTS
from raypipe.config import Config, ModelConfig, is_on_hub
from raypipe.errors import ConfigError
from raypipe.models.families import family_of_checkpoint
from raypipe.models.licences import UNKNOWN, licence
from raypipe.models.policies import PRETRAINED, Policy, model_identity, model_path
from raypipe.store.artifacts import Run
from raypipe.store.manifest import Commit
from raypipe.store.paths import CATALOG, Paths
from raypipe.summaries import Comparison, Metrics, RoundRecord, SplitMetrics, Summary

CardKind = Literal["adapter", "merged"]
Values = dict[str, Any]


def model_card(config: Config, run: Run, policy: Policy, kind: CardKind) -> str:
    """The card's Markdown with its YAML front matter, as the Hugging Face Hub reads it.

    Args:
        policy: of the run, or from elsewhere: then the card has no figures.
        kind: what the card lies beside.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    facts = _Facts.of(config, run, policy)
    front = yaml.safe_dump(_front_matter(config, facts, kind), sort_keys=False, allow_unicode=True)
    page = Environment(
        loader=PackageLoader("raypipe.exports", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    ).get_template("modelcard.md.j2")
    text = page.render(
        config=config,
        facts=facts,
        kind=kind,
        base=base_name(config.model),
        licence=licence(config.model),
        unknown=UNKNOWN,
        system=SYSTEM_PROMPTS[config.model.answer_format],
        processor=_processor_arguments(config),
    )
    return f"---\n{front}---\n\n{text}"


def _processor_arguments(config: Config) -> str:
    """What holds a vLLM server to the images' size, as JSON; empty where nothing needs to."""
    model, side = config.model, config.catalog.image_size
    try:
        family = family_of_checkpoint(model_path(model), model.revision)
    except ConfigError:  # a model of the Hub that is not on this machine
        return ""
    arguments = family.engine_arguments(side).get("mm_processor_kwargs")
    return json.dumps(arguments) if arguments else ""


def base_name(model: ModelConfig) -> str | None:
    """The base model's id on the Hub; None for one that is not there."""
    return model.path if is_on_hub(model.path) else None


@dataclass(frozen=True)
class _Facts:
    """What the run records of a policy; parts that it lacks are None or empty."""

    name: str
    policy_id: str
    base_digest: str | None
    adapter: Commit | None
    seed: Commit | None
    listings: Commit | None
    measured: SplitMetrics | None
    base_measured: SplitMetrics | None
    comparison: Comparison | None
    pairs: RoundRecord | None

    @classmethod
    def of(cls, config: Config, run: Run, policy: Policy) -> "_Facts":
        adapter = run.artifact(Paths(policy.name).adapter).commit()
        own = adapter is not None and not isinstance(policy.adapter, Path)
        summary = Summary.find(run) if own else None
        comparison = summary.comparison if summary is not None else None
        rounds = summary.pairs if summary is not None else ()
        learned = {Paths.of_round(record.round): record for record in rounds}
        return cls(
            name=policy.name,
            policy_id=policy.policy_id,
            base_digest=model_identity(config.model).get("model.files"),
            adapter=adapter if own else None,
            seed=run.artifact(CATALOG.seed).commit() if own else None,
            listings=run.artifact(CATALOG.listings).commit() if own else None,
            measured=_measured(run, policy.name) if own else None,
            base_measured=_measured(run, PRETRAINED) if own else None,
            comparison=comparison if comparison and comparison.to == policy.name else None,
            pairs=learned.get(Paths(policy.name)),
        )

    @property
    def method(self) -> str:
        """How the adapter's last training learned; empty for a foreign one."""
        if self.adapter is None:
            return ""
        return str(self.adapter.fingerprint.get("training.method", "sft"))


def _measured(run: Run, name: str) -> SplitMetrics | None:
    evaluation = run.artifact(Paths(name).evaluation)
    if evaluation.commit() is None:
        return None
    measured = Metrics.of(evaluation).eval
    return measured if measured.accuracy is not None else None


def _front_matter(config: Config, facts: _Facts, kind: CardKind) -> Values:
    base = base_name(config.model)
    values: Values = {}
    if base is not None:
        relation = "adapter" if kind == "adapter" else "finetune"
        values |= {"base_model": base, "base_model_relation": relation}
        if config.model.revision is not None:
            values["base_model_revision"] = config.model.revision
    values |= licence(config.model)
    values["library_name"] = "peft" if kind == "adapter" else "transformers"
    values["pipeline_tag"] = "image-text-to-text"
    method = {"dpo": "dpo", "self_learning": "self-learning", "sft": "sft"}.get(facts.method)
    values["tags"] = ["raypipe", "product-attributes", "lora", *([method] if method else [])]
    if facts.measured is not None and facts.measured.accuracy is not None:
        metric = {
            "type": "accuracy",
            "value": round(facts.measured.accuracy, 4),
            "name": "accuracy, greedy, micro over queries",
        }
        values["model-index"] = [
            {
                "name": f"{config.run.name}/{facts.name}",
                "results": [
                    {
                        "task": {"type": "image-text-to-text"},
                        "dataset": {
                            "type": config.run.name,
                            "name": f"eval split of run {config.run.name}",
                        },
                        "metrics": [metric],
                    }
                ],
            }
        ]
    return values
