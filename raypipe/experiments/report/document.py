"""The document of a sweep: its page's tables as Markdown, for people who read it on a code host."""

import re
from collections.abc import Collection, Iterable, Sequence

from raypipe.experiments.report import paper_tables, tables
from raypipe.experiments.report.tables import ClaimRow, Contrast
from raypipe.experiments.results import ArmResult, Results
from raypipe.report.formatting import (
    ABSENT,
    count,
    duration,
    interval,
    percent,
    points,
    points_interval,
    score,
)

_SPECIAL = re.compile(r"[\\`*_\[\]<|#&~$]")
PAPER_COLUMN = "the paper (another model, other data)"


def results_markdown(results: Results) -> str:
    """Claims, Tables 4 to 6, rounds, controls and options, and how to make them again.

    What the sweep did not try is left out; the same results give the same text.
    """
    sections = (
        _opening(results),
        _claims(results),
        _table4(results),
        _table5(results),
        _table6(results),
        _variants(results),
        _votes(results),
        _refused(results),
        _again(results),
    )
    return "\n\n".join(section for section in sections if section) + "\n"


def _opening(results: Results) -> str:
    return f"# Results of {_text(results.run)}\n\n{_text(tables.headline(results))}"


def _claims(results: Results) -> str:
    head = ("expected", "points", "95 %", "each seed", "verdict")
    parts = []
    if stated := tables.claim_rows(results):
        parts += ["## The claims", _table(head, map(_claim, stated), left=(0, 4))]
    if questions := tables.open_questions(results):
        parts += [
            "### Compared without an expectation",
            _table(("compared", *head[1:]), map(_claim, questions), left=(0, 4)),
        ]
    return _join([*parts, _text(tables.note_on_intervals(results))]) if parts else ""


def _claim(claim: ClaimRow) -> Sequence[str]:
    seeds = " · ".join(points(difference) for difference in claim.seeds)
    interval = points_interval(claim.ci95)
    return _text(claim.statement), points(claim.difference), interval, seeds, claim.word


def _table4(results: Results) -> str:
    rows = paper_tables.table4(results)
    if not rows:
        return ""
    head = ("technique", "accuracy", "95 %", "over its start, points", "95 %")
    paper = (PAPER_COLUMN, "the paper, over its start")
    lead = (
        "Accuracy of greedy decoding on the held-out queries. The columns on the right are the "
        "paper's own, of another model on other data "
        f"({paper_tables.PAPER_SETTING}): directions can be compared, "
        "numbers cannot. SFT on answers without reasoning (the paper's §3.1.1) is "
        "compared with SFT; the second model is the paper's Qwen2-VL-2B."
    )
    body = (
        (
            _text(row.technique),
            *_accuracy(row.arm),
            *_difference(row.contrast),
            score(row.paper),
            points(row.paper_difference),
        )
        for row in rows
    )
    return _join(["## Table 4: SFT, self-learning and DPO", lead, _table((*head, *paper), body)])


def _table5(results: Results) -> str:
    rows = paper_tables.table5(results)
    if not rows:
        return ""
    head = ("C >", "k of n votes", "pairs", "accuracy", "95 %")
    equal = ("equal pairs", "accuracy", "95 %")
    controlled = any(row.equal for row in rows)
    lead = (
        f"With {results.num_chains} chains a confidence above C is k votes or more: thresholds "
        "with the same k are one arm. The controls with equal pairs tell the number of pairs from "
        "their quality."
    )
    body = []
    for row in rows:
        same = f"the same arm as C > {row.shares:g}" if row.shares is not None else ""
        arm = None if same else row.arm
        votes = f"{row.min_votes} of {results.num_chains}"
        cells = [f"{row.threshold:g}", votes, same or count(tables.pairs(arm))]
        cells += ["", ""] if same else _accuracy(arm)
        if controlled:
            cells += [count(tables.pairs(row.equal)), *_accuracy(row.equal)]
        body.append([*cells, score(row.paper)])
    columns = (*head, *(equal if controlled else ()), PAPER_COLUMN)
    return _join(["## Table 5: the threshold of the gate", lead, _table(columns, body)])


def _table6(results: Results) -> str:
    rows = paper_tables.table6(results)
    if not rows:
        return ""
    head = ("of the pool", "listings", "pairs", "DPO", "95 %", "targets", "self-learning", "95 %")
    paper = ("the paper: listings", "DPO", "self-learning")
    lead = (
        "Accuracy against the unlabeled listings that the policy could learn from. The paper's "
        "columns are of another model on other data; its self-learning with the whole pool is "
        "0.66 in its Table 6 and 0.665 in its Table 4."
    )
    body = (
        (
            f"{100 * row.share:.0f} %",
            count(row.listings),
            count(tables.pairs(row.dpo)),
            *_accuracy(row.dpo),
            count(tables.pairs(row.self_learning)),
            *_accuracy(row.self_learning),
            count(row.paper_listings),
            score(row.paper_dpo),
            score(row.paper_self_learning),
        )
        for row in rows
    )
    return _join(
        ["## Table 6: the size of the unlabeled pool", lead, _table((*head, *paper), body)]
    )


def _variants(results: Results) -> str:
    head = ("", "pairs", "accuracy", "95 %", "against", "points", "95 %")
    parts = []
    for name, rows in tables.variants(results).items():
        body = (
            (
                _text(row.arm.title),
                count(tables.pairs(row.arm)),
                *_accuracy(row.arm),
                _text(row.contrast.other if row.contrast else ABSENT),
                *_difference(row.contrast),
            )
            for row in rows
        )
        parts.append(f"## {name}\n\n{_table(head, body, left=(0, 4))}")
    return _join(parts)


def _votes(results: Results) -> str:
    head = ("policy", "anchor queries", "one chain", "vote", "kept", "greedy, kept")
    body = (
        (
            _text(tables.title(results, vote.policy)),
            count(vote.queries),
            score(vote.one_chain_accuracy),
            score(vote.vote_accuracy),
            percent(vote.kept),
            score(vote.greedy_accuracy_kept),
            score(vote.consensus_accuracy_kept),
            points(vote.headroom),
            points_interval(vote.headroom_ci95),
        )
        for vote in results.votes
    )
    columns = (*head, "consensus, kept", "headroom, points", "95 %")
    return _join(["## What the vote knew", _table(columns, body)]) if results.votes else ""


def _refused(results: Results) -> str:
    rows = [(_text(name), _text(reason)) for name, reason in results.refused.items()]
    table = _table(("arm", "why"), rows, left=(0, 1))
    return _join(["## Arms without figures", table]) if rows else ""


def _again(results: Results) -> str:
    many = "s" if len(results.seeds) != 1 else ""
    seeds = ", ".join(str(seed) for seed in results.seeds)
    about = (
        f"Base model {results.model}, seed{many} {seeds}, {results.num_chains} chains per query; "
        f"{count(results.seed_listings)} annotated, {count(results.pool_listings)} "
        f"unlabeled and {count(results.eval_listings)} held-out listings with "
        f"{count(results.eval_queries)} queries; {len(results.arms)} arms, "
        f"{duration(results.seconds)} of work."
    )
    versions = ", ".join(f"{name} {value}" for name, value in results.versions.items())
    parts = ["## How to make it again", _code(results.command), _text(about)]
    parts += [_text(f"Versions: {versions}.")] if versions else []
    return _join([*parts, _text(f"The paper: {paper_tables.PAPER}.")])


def _accuracy(arm: ArmResult | None) -> list[str]:
    if arm is None:
        return [ABSENT, ABSENT]
    return [score(arm.accuracy), interval(arm.ci95)]


def _difference(contrast: Contrast | None) -> list[str]:
    if contrast is None:
        return [ABSENT, ABSENT]
    return [points(contrast.difference), points_interval(contrast.ci95)]


def _join(parts: Iterable[str]) -> str:
    return "\n\n".join(parts)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], left: Collection[int] = (0,)) -> str:
    """A Markdown table; the columns in ``left`` are words, the others are set to the right."""
    rule = ["---" if index in left else "---:" for index in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def _text(words_: str) -> str:
    """Words that mean themselves: on one line, with nothing left for Markdown or HTML to obey."""
    return _SPECIAL.sub(r"\\\g<0>", " ".join(words_.split()))


def _code(command: str) -> str:
    longest = max((len(run) for run in re.findall(r"`+", command)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}bash\n{command}\n{fence}"
