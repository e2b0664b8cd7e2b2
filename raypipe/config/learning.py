"""How a policy learns: adapters, SFT, votes, DPO and self-learning, rounds."""

from typing import Literal

from pydantic import Field, model_validator

from raypipe.config.section import RESOURCE, UPSTREAM, Section, changes

PairWeight = Literal["uniform", "margin"]


class LoraConfig(Section):
    stages = ("sft", "training", "export")
    rank: int = Field(32, ge=1)
    """Rank of the adapter (paper §3.1: 32)."""
    alpha: int = Field(32, ge=1)
    """Scale of the adapter: alpha / rank (paper §3.1: 32)."""
    targets: tuple[str, ...] = Field(("q_proj", "v_proj"), min_length=1)
    """Projections of the language model that get an adapter (paper §3.1: query and value)."""


class OptimizerConfig(Section):
    learning_rate: float = Field(gt=0)
    """Peak learning rate of AdamW."""
    epochs: int = Field(1, ge=1)
    """Passes over the training examples."""
    batch_size: int = Field(128, ge=1)
    """Examples (pairs for DPO, targets for SFT and self-learning) per optimizer step, over all
    workers."""
    warmup_share: float = Field(0.03, ge=0, le=1)
    """Share (0-1) of the steps over which the rate rises; then it falls as a cosine."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this norm."""
    max_steps: int | None = Field(None, ge=1)
    """Optimizer steps in all, in place of epochs, as TRL's max_steps. None goes by epochs."""

    def num_examples(self, size: int) -> int:
        """Examples that a training on ``size`` different ones takes."""
        return size * self.epochs if self.max_steps is None else self.max_steps * self.batch_size


class SftConfig(OptimizerConfig):
    stages = ("sft",)
    learning_rate: float = Field(3e-5, gt=0)
    """Peak learning rate of AdamW (paper §3.1: 3e-5)."""
    epochs: int = Field(3, ge=1)
    """Passes over the annotated seed."""
    batch_size: int = Field(16, ge=1)
    """Targets per optimizer step, over all workers."""


class ConsensusConfig(Section):
    stages = ("consensus",)
    threshold: float = Field(0.5, ge=0, lt=1)
    """A query is kept when its confidence exceeds this, strictly (paper §4: 0.5)."""


class TrainingConfig(OptimizerConfig):
    stages = ("training",)
    method: Literal["dpo", "self_learning"] = "dpo"
    """DPO on preference pairs, or next-token training on the preferred chains (paper §5)."""
    learning_rate: float = Field(1e-5, gt=0)
    """Peak learning rate of AdamW (paper §4.1: 1e-5)."""
    loss: Literal["sigmoid", "ipo"] = "sigmoid"
    """Of pairs: DPO's sigmoid loss (the paper), or IPO's squared distance between the difference of
    the mean log-ratios and 1 / (2 beta)."""
    beta: float = Field(0.2, gt=0)
    """Strength of the pull to the reference (paper §4.1: 0.2)."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Conservative DPO: the probability that a pair's preference is the wrong way round; 0 is the
    paper's DPO."""
    pair_weight: PairWeight = "uniform"
    """What a pair counts in the loss: all the same (the paper), or in proportion to its query's
    margin, the consensus's votes beyond the runner-up's over chains requested. Weights have mean 1
    over a training."""
    step: Literal["shared_prefix", "stock"] = Field(
        "shared_prefix", json_schema_extra=changes("sft", "training")
    )
    """How a step is computed, in SFT too. shared_prefix: every image, prompt and chain of a listing
    once, for the Qwen2-VL, Qwen2.5-VL and Qwen3-VL families. stock: TRL's own trainers, for any
    vision-language model that transformers loads with AutoModelForImageTextToText, whose chat
    template takes a system turn, and whose language model has linear modules that are called as
    lora.targets says; its processor then resizes the prepared images as its checkpoint says."""
    reference: Literal["start", "round_start"] = "start"
    """The frozen policy DPO compares with: the one before round 1 (the SFT policy, or the base
    model when rounds start from it), or the one that each round starts from."""

    @model_validator(mode="after")
    def _every_option_takes_effect(self) -> "TrainingConfig":
        weighted, smoothed = self.pair_weight != "uniform", self.label_smoothing > 0
        if self.method == "self_learning" and (weighted or smoothed or self.loss != "sigmoid"):
            raise ValueError(
                "training.loss, training.label_smoothing and training.pair_weight are of pairs, "
                "and need training.method=dpo"
            )
        if smoothed and self.loss != "sigmoid":
            raise ValueError("training.label_smoothing needs training.loss=sigmoid")
        if self.step == "stock" and weighted:
            raise ValueError(
                f"training.pair_weight={self.pair_weight} needs training.step=shared_prefix: "
                "TRL's trainer counts all pairs the same"
            )
        return self


class RoundsConfig(Section):
    num_rounds: int = Field(2, ge=0, json_schema_extra=RESOURCE)
    """Rounds to run; raising it later continues the run."""
    start: Literal["sft", "pretrained"] = Field("sft", json_schema_extra=UPSTREAM)
    """The policy that round 1 starts from."""
    pool_slices: int = Field(1, ge=1, json_schema_extra=UPSTREAM)
    """Parts that the pool is cut into; rounds learn from them in turn, so that a round sees fresh
    listings. 1 lets every round see the whole pool, as the paper does."""
    max_anchor_drop: float = Field(0.02, ge=0, le=1, json_schema_extra=UPSTREAM)
    """A round is rolled back when its anchor accuracy is below the best by more than this (0-1)."""
    alarm: bool = Field(True, json_schema_extra=UPSTREAM)
    """Stop the run when a round's policy collapses: surer, no more often right, less varied."""
    alarm_confidence_rise: float = Field(0.05, ge=0, le=1, json_schema_extra=UPSTREAM)
    """Surer: mean C and the share of unanimous queries (0-1) have both risen by more than this."""
    alarm_entropy_fall: float = Field(0.1, ge=0, json_schema_extra=UPSTREAM)
    """Less varied: the entropy of answers, 1 as the truth's, has fallen by more than this."""


class EvaluationConfig(Section):
    stages = ("evaluation", "quality")
    num_resamples: int = Field(1000, ge=100)
    """Bootstrap resamples (of listings) behind every interval."""
