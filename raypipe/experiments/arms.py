"""The arms of the paper's experiments, and of the controls that it lacks (pure).

An arm makes one policy, or measures one, and says what it needs: the policy that it starts from,
the policy whose chains it learns from, the votes that a query needs, and the part of the vote that
it takes. Settings that come to the same arm are one: at seven chains the thresholds 0.6 and 0.7
both ask for five votes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from raypipe.attributes.pool_slices import Slice
from raypipe.attributes.vote import min_votes
from raypipe.config import Config, split_backbone
from raypipe.consensus.subset import Subset
from raypipe.experiments.results import Group
from raypipe.models.policies import PRETRAINED, SFT
from raypipe.store.paths import Paths

ArmKind = Literal["base", "sft", "learned", "vote"]
ArmMethod = Literal["none", "sft", "dpo", "self_learning", "vote"]
SHORT: dict[ArmMethod, str] = {"dpo": "dpo", "self_learning": "sl"}
WORDS: dict[ArmMethod, str] = {"dpo": "DPO", "self_learning": "Self-learning"}
VOTE = "vote-sft"
# DPO's options for doubtful pairs mean nothing to self-learning, and are refused there.
_PLAIN: dict[ArmMethod, dict[str, Any]] = {
    "self_learning": {"label_smoothing": 0.0, "pair_weight": "uniform"}
}
_CLAIMED: tuple[Group, ...] = ("table4", "table6")  # whose rows the arms of the claims are
FIRST_HALF, SECOND_HALF = Slice(0.0, 0.5), Slice(0.5, 1.0)


@dataclass(frozen=True)
class Arm:
    """One experiment.

    Args:
        name: identifier, and the scope of what it makes.
        groups: the tables that it is a row of, of those that are wanted.
        start: the arm whose policy it starts from or measures; None for a base model.
        chains_of: the arm whose chains it learns from.
        thresholds: of the confidence; all of them ask for the same number of votes.
        fewest: take no more pairs than the threshold with the fewest gives.
        settings: overrides of the configuration.
    """

    name: str
    title: str
    groups: tuple[Group, ...]
    kind: ArmKind
    method: ArmMethod = "none"
    start: str | None = None
    chains_of: str | None = None
    round_index: int = 1
    thresholds: tuple[float, ...] = ()
    selection: Subset = field(default_factory=Subset)
    fewest: bool = False
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def needs(self) -> tuple[str, ...]:
        """The arms that come before it; SFT starts from a base model, which is there."""
        if self.kind == "sft":
            return ()
        return tuple(dict.fromkeys(name for name in (self.start, self.chains_of) if name))


def plan_arms(config: Config, seed: int) -> list[Arm]:
    """The arms of one seed, each after those that it needs.

    Later seeds than the first repeat the groups of ``sweep.replicated`` alone.
    """
    sweep = config.sweep
    wanted = set(sweep.groups)
    if seed != sweep.seeds[0]:
        wanted &= set(sweep.replicated)
    arms = _merged(_all(config))
    chosen = {arm.name for arm in arms if set(arm.groups) & {"baseline", *wanted}}
    for arm in reversed(arms):
        if arm.name in chosen:
            chosen.update(arm.needs)
    shown = {"baseline", *wanted, *(_CLAIMED if "claims" in wanted else ())}
    return [
        replace(arm, groups=tuple(group for group in arm.groups if group in shown))
        for arm in arms
        if arm.name in chosen
    ]


def scope_of(seed: int, name: str) -> str:
    """Where an arm's artifacts lie in the run."""
    return Paths.of_arm(seed, name)


def votes_of(arm: Arm, config: Config) -> int:
    """The votes that a consensus needs in an arm."""
    threshold = arm.thresholds[0] if arm.thresholds else config.consensus.threshold
    return min_votes(threshold, config.sampling.num_chains)


def sampled(arms: Sequence[Arm]) -> dict[str, int]:
    """The arms whose policies are sampled, with the round that learns from their chains."""
    return {arm.chains_of: arm.round_index for arm in arms if arm.chains_of is not None}


def _all(config: Config) -> list[Arm]:
    return [
        Arm(PRETRAINED, "Pretrained", ("baseline", "table4"), "base"),
        Arm(SFT, "SFT", ("baseline", "table4"), "sft", "sft", PRETRAINED),
        *_table4(config),
        *_table5(config),
        *_table6(config),
        *_rounds(config),
        *_controls(config),
        *_options(config),
    ]


def _learned(method: ArmMethod, start: str, config: Config, **changed: Any) -> Arm:
    """The main arm of a method: one round on all of the start policy's pool."""
    arm = Arm(
        name=f"{SHORT[method]}-{start}",
        title=f"{WORDS[method]} from {'SFT' if start == SFT else start}",
        groups=("table4",),
        kind="learned",
        method=method,
        start=start,
        chains_of=start,
        thresholds=(config.consensus.threshold,),
        settings={"training": {"method": method, **_PLAIN.get(method, {})}},
    )
    return replace(arm, **changed)


def _table4(config: Config) -> Iterable[Arm]:
    yield _learned("self_learning", PRETRAINED, config)
    yield _learned("self_learning", SFT, config, groups=("table4", "claims"))
    for start in (PRETRAINED, SFT):
        yield _learned("dpo", start, config, groups=("table4", "claims"))
    plain = {"model": {"answer_format": "answer_only"}}
    bare = f"{PRETRAINED}-answer-only"
    yield Arm(bare, "Pretrained, answer only", ("table4",), "base", settings=plain)
    yield Arm(
        f"{SFT}-answer-only", "SFT, answer only", ("table4",), "sft", "sft", bare, settings=plain
    )
    for number, backbone in enumerate(config.sweep.backbones, start=2):
        path, revision = split_backbone(backbone)
        other = {"model": {"path": path, "revision": revision}}
        bare, word = f"{PRETRAINED}-model-{number}", path.rsplit("/", 1)[-1]
        yield Arm(bare, f"Pretrained, {word}", ("table4",), "base", settings=other)
        yield Arm(
            f"{SFT}-model-{number}", f"SFT, {word}", ("table4",), "sft", "sft", bare, settings=other
        )


def _table5(config: Config) -> Iterable[Arm]:
    """The thresholds, and the same with equal numbers of pairs: then only their quality differs."""
    num_chains = config.sampling.num_chains
    main = min_votes(config.consensus.threshold, num_chains)
    by_votes: dict[int, list[float]] = {}
    for threshold in config.sweep.thresholds:
        by_votes.setdefault(min_votes(threshold, num_chains), []).append(threshold)
    for votes, thresholds in by_votes.items():
        word = f"{thresholds[0]:g}"
        name = "dpo-sft" if votes == main else f"dpo-sft-c{word}"
        arm = _learned(
            "dpo",
            SFT,
            config,
            name=name,
            title=f"DPO from SFT, C > {word}",
            groups=("table5",),
            thresholds=tuple(thresholds),
        )
        yield arm
        yield replace(
            arm,
            name=f"dpo-sft-c{word}-equal",
            title=f"{arm.title}, equal pairs",
            groups=("control",),
            fewest=True,
        )


def _table6(config: Config) -> Iterable[Arm]:
    methods: tuple[ArmMethod, ...] = ("self_learning", "dpo")
    for method in methods:
        for share in config.sweep.pool_shares:
            groups = ("table6", "claims") if method == "dpo" else ("table6",)
            arm = _learned(method, SFT, config, groups=groups)
            if share < 1:
                arm = replace(
                    arm,
                    name=f"{arm.name}-pool-{share:g}",
                    title=f"{arm.title}, {share:.0%} of the pool",
                    selection=Subset(pool=Slice(0.0, share)),
                )
            yield arm


def _rounds(config: Config) -> Iterable[Arm]:
    methods: tuple[ArmMethod, ...] = ("self_learning", "dpo")
    for method in methods:
        before = _learned(method, SFT, config, groups=("rounds",))
        yield before
        for number in range(2, config.sweep.num_rounds + 1):
            before = replace(
                before,
                name=f"{SHORT[method]}-{SFT}-round-{number}",
                title=f"{WORDS[method]} from SFT, round {number}",
                start=before.name,
                chains_of=before.name,
                round_index=number,
            )
            yield before


def _controls(config: Config) -> Iterable[Arm]:
    yield Arm(VOTE, "Vote of SFT's chains", ("control",), "vote", "vote", SFT, SFT)
    yield _learned(
        "self_learning",
        SFT,
        config,
        name="sl-sft-paired",
        title="Self-learning on the queries that DPO learns from",
        groups=("control",),
        selection=Subset(paired_only=True),
    )
    yield _learned(
        "dpo",
        SFT,
        config,
        name="dpo-sft-null",
        title="DPO on pairs in random order",
        groups=("control",),
        selection=Subset(shuffled=True),
    )


def _options(config: Config) -> Iterable[Arm]:
    """What the paper does not do: measured here, off by default until it wins."""
    main = _learned("dpo", SFT, config, groups=("option",))
    smoothing = config.sweep.label_smoothing
    for name, title, changed in (
        ("margin", "pairs weighted by the vote's margin", {"pair_weight": "margin"}),
        ("smooth", f"label smoothing {smoothing:g}", {"label_smoothing": smoothing}),
    ):
        if name == "margin" and config.training.step == "stock":
            continue  # TRL's trainer cannot weight pairs
        settings = {"training": {**main.settings["training"], **changed}}
        yield replace(
            main, name=f"dpo-sft-{name}", title=f"DPO from SFT, {title}", settings=settings
        )
    if config.sweep.num_rounds < 2:
        return
    half = replace(
        main,
        name="dpo-sft-half",
        title="DPO from SFT, half of the pool",
        selection=Subset(pool=FIRST_HALF),
    )
    again = replace(half, start=half.name, chains_of=half.name, round_index=2)
    yield half
    yield replace(
        again, name="dpo-sft-half-round-2", title="DPO from SFT, round 2 on the same half"
    )
    yield replace(
        again,
        name="dpo-sft-fresh-round-2",
        title="DPO from SFT, round 2 on the other half",
        selection=Subset(pool=SECOND_HALF),
    )
    yield replace(
        main,
        name="dpo-sft-moving-round-2",
        title="DPO from SFT, round 2 with the reference at its start",
        start=main.name,
        chains_of=main.name,
        round_index=2,
        settings={"training": {**main.settings["training"], "reference": "round_start"}},
    )


def _merged(arms: Iterable[Arm]) -> list[Arm]:
    """Arms of one name are one arm, a row of all their tables."""
    found: dict[str, Arm] = {}
    for arm in arms:
        known = found.get(arm.name)
        if known is None:
            found[arm.name] = arm
            continue
        found[arm.name] = replace(
            known,
            groups=tuple(dict.fromkeys((*known.groups, *arm.groups))),
            thresholds=tuple(dict.fromkeys((*known.thresholds, *arm.thresholds))),
        )
    return list(found.values())
