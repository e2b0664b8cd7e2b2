"""A run as a finished experiment leaves it: plausible figures, drawn images, no engine."""

import io
import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from PIL import Image, ImageDraw

import raypipe.embedded
from raypipe.schemas import CONSENSUS, EVALUATION, LISTINGS, QUARANTINE, Table
from raypipe.store.artifacts import Run

SCHEMA = Path(raypipe.embedded.__file__).parent / "schema.yaml"
SKILL = {"pretrained": 0.46, "sft": 0.61, "round-1": 0.67, "round-2": 0.71, "round-3": 0.68}
DECISIONS = {"round-1": "accepted", "round-2": "accepted", "round-3": "rolled_back"}
COLORS = {
    "Red": "#c8372d",
    "Blue": "#2f5bb7",
    "Green": "#3d8b4a",
    "Yellow": "#e0b93a",
    "Black": "#25262b",
    "White": "#f2f1ec",
    "Pink": "#e08aa6",
    "Brown": "#7a5636",
}
OVERPREDICTED = {
    "attribute": "kurta/neckline",
    "value": "V-Neck",
    "share": 1.0,
    "truth_share": 0.125,
    "queries": 8,
}
Row = dict[str, Any]


def picture(rng: random.Random, color: str) -> bytes:
    """Something like a garment on a plain background."""
    backdrop = rng.choice(["#e9e6df", "#d5dde6", "#f4f0ea", "#c9c4ba"])
    image = Image.new("RGB", (224, 224), backdrop)
    pen = ImageDraw.Draw(image)
    left, top = rng.randint(30, 60), rng.randint(20, 50)
    right, bottom = rng.randint(160, 195), rng.randint(170, 205)
    pen.rounded_rectangle((left, top, right, bottom), rng.randint(8, 40), fill=color)
    for offset in range(left + 12, right - 8, 22):
        pen.line((offset, top + 14, offset, bottom - 14), fill=backdrop, width=rng.randint(1, 4))
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=85)
    return encoded.getvalue()


class Experiment:
    """Writes the artifacts of a synthetic run, scope by scope."""

    def __init__(self, location: Path, num_listings: int, scopes: tuple[str, ...]) -> None:
        self.run = Run(str(location))
        self.rng = random.Random(7)
        self.scopes = scopes
        self.attributes: dict[str, list[Row]] = {}
        for entry in yaml.safe_load(SCHEMA.read_text()):
            entry["values"] = [str(value) for value in entry["values"]]
            self.attributes.setdefault(str(entry["vertical"]), []).append(entry)
        self.listings = [self.listing(index) for index in range(num_listings)]
        self.stages: list[Row] = []
        self.funnels: Row = {}

    def listing(self, index: int) -> Row:
        vertical = sorted(self.attributes)[index % len(self.attributes)]
        split = "anchor" if index % 4 == 3 else "eval"
        truth = {e["attribute"]: self.rng.choice(e["values"]) for e in self.attributes[vertical]}
        color = COLORS.get(truth.get("color", ""), "#7d8fa3")
        images = [picture(self.rng, color) for _ in range(self.rng.randint(1, 5))]
        queries = []
        for entry in self.attributes[vertical]:
            sold_as = self.rng.choice(entry["values"]) if self.rng.random() < 0.4 else None
            queries.append(
                {
                    "attribute": entry["attribute"],
                    "prompt": f"what is the most suitable value for {entry['attribute']}",
                    "options": entry["values"],
                    "seller_value": sold_as,
                }
            )
        return {
            "row": {
                "listing_id": f"{split}-{index:05d}",
                "vertical": vertical,
                "split": split,
                "group_id": None,
                "images": images,
                "image_hashes": [f"{index}-{i}" for i in range(len(images))],
                "queries": queries,
            },
            "truth": truth,
            "ease": {attribute: self.rng.random() for attribute in truth},
        }

    def write(self) -> Run:
        rows = [listing["row"] for listing in self.listings]
        quarantined = [
            {"id": "pool-00017", "stage": "prepare", "reason": "no_image", "detail": "0 of 2 open"},
            {"id": "pool-00311", "stage": "prepare", "reason": "no_image", "detail": "0 of 1 open"},
        ]
        self._commit("catalog/listings", LISTINGS, rows, {}, quarantined)
        for scope in self.scopes:
            self._evaluate(scope)
            self._train(scope)
            if self._feeds_a_round(scope):
                self._vote(scope)
        self.run.replace("summary.json", json.dumps(self._summary()).encode())
        return self.run

    def _feeds_a_round(self, scope: str) -> bool:
        return scope not in ("pretrained", self.scopes[-1])

    def _commit(
        self,
        name: str,
        table: Table | None,
        rows: list[Row],
        files: Row,
        refused: Sequence[Row] = (),
    ) -> None:
        attempt = self.run.artifact(name, table).attempt(
            {"run.seed": 0, "versions.raypipe": "0.1.0", "versions.vllm": "0.32.0"}
        )
        if table is not None and rows:
            attempt.write(table.from_rows(rows))
        if refused:
            attempt.write(QUARANTINE.from_rows(list(refused)), "quarantine")
        for file, content in files.items():
            attempt.write_file(file, content)
        attempt.commit()

    def _answer(self, scope: str, listing: Row, entry: Row) -> Row:
        attribute, truth = entry["attribute"], listing["truth"][entry["attribute"]]
        noise = self.rng.gauss(0, 0.12)
        correct = listing["ease"][attribute] + noise < SKILL[scope]
        wrong = [value for value in entry["values"] if value != truth]
        answer: str | None = truth if correct else self.rng.choice(wrong)
        reason = "ok"
        said = answer
        if not correct and self.rng.random() < 0.12:
            answer, reason, said = None, "out_of_schema", "Mauve"
        text = (
            f"<reasoning>The images show a {listing['row']['vertical']} whose {attribute} looks "
            f"like {said} from the front and from the side, so the most suitable value for "
            f"{attribute} is '{said}'.</reasoning><answer>{said}</answer>"
        )
        row = listing["row"]
        return {
            "listing_id": row["listing_id"],
            "vertical": row["vertical"],
            "split": row["split"],
            "attribute": attribute,
            "truth": truth,
            "answer": answer,
            "reason": reason,
            "correct": correct,
            "text": text,
        }

    def _evaluate(self, scope: str) -> None:
        rows = [
            self._answer(scope, listing, entry)
            for listing in self.listings
            for entry in self.attributes[listing["row"]["vertical"]]
        ]
        metrics = {split: measure([r for r in rows if r["split"] == split]) for split in SPLITS}
        voted = self._feeds_a_round(scope)
        metrics["vote"] = self._vote_metrics(scope) if voted else None
        metrics["collapse"] = {
            "queries": metrics["anchor"]["queries"],
            "confidence": SKILL[scope] - 0.02 if voted else None,
            "unanimity": SKILL[scope] - 0.3 if voted else None,
            "entropy": 0.98 - SKILL[scope] / 3,
            "entropy_error": 0.019,
            "overpredicted": [OVERPREDICTED],
        }
        self._commit(
            f"{scope}/evaluation", EVALUATION, rows, {"metrics.json": json.dumps(metrics).encode()}
        )
        self.stages.append(
            {
                "name": scope,
                **{k: metrics["eval"][k] for k in ("accuracy", "ci95", "queries", "invalid")},
                "anchor_accuracy": metrics["anchor"]["accuracy"],
                "decision": DECISIONS.get(scope),
                "policy_id": f"{scope}-0123",
            }
        )

    def _vote_metrics(self, scope: str) -> Row:
        skill = SKILL[scope]
        levels = [
            {"votes": k, "queries": 12 + 9 * k, "accuracy": min(0.99, 0.16 + skill * k / 6.2)}
            for k in range(1, 8)
        ]
        return {
            "queries": sum(level["queries"] for level in levels),
            "vote_accuracy": skill + 0.05,
            "one_chain_accuracy": skill - 0.06,
            "kept": 0.68,
            "consensus_accuracy_kept": skill + 0.14,
            "greedy_accuracy_kept": skill + 0.08,
            "headroom": 0.06,
            "headroom_ci95": [0.021, 0.094],
            "by_confidence": [{"votes": 0, "queries": 20, "accuracy": 0.0}, *levels],
        }

    def _vote(self, scope: str) -> None:
        rows, funnel = [], {}
        for index in range(480):
            vertical = sorted(self.attributes)[index % len(self.attributes)]
            for entry in self.attributes[vertical]:
                name = f"pool-{index:05d}"
                row, counts = self._ballot(name, vertical, entry, SKILL[scope])
                rows.append(row)
                for key in ("", vertical, f"{vertical}/{entry['attribute']}"):
                    funnel.setdefault(key, Counter()).update(counts)
        named = {key: name_counts(counts) for key, counts in funnel.items()}
        content = {
            "total": named[""],
            "by_vertical": {key: named[key] for key in self.attributes},
            "by_attribute": {key: named[key] for key in named if "/" in key},
        }
        self.funnels[scope] = content["total"]
        files = {"funnel.json": json.dumps(content).encode()}
        self._commit(f"{scope}/consensus", CONSENSUS, rows, files)

    def _ballot(self, name: str, vertical: str, entry: Row, skill: float) -> tuple[Row, Row]:
        share = min(1.0, max(0.05, self.rng.gauss(skill, 0.28)))
        valid = sum(self.rng.random() < 0.93 for _ in range(7))
        drawn = [
            entry["values"][0] if self.rng.random() < share else self.rng.choice(entry["values"])
            for _ in range(valid)
        ]
        votes = Counter(drawn).most_common()
        tied = len(votes) > 1 and votes[0][1] == votes[1][1]
        top = votes[0][1] if votes and not tied else 0
        gate = "tie" if tied else "kept" if top >= 4 else "below_threshold"
        gate = gate if votes else "no_valid_chain"
        pairs = 7 - top if gate == "kept" else 0
        row = {
            "listing_id": name,
            "vertical": vertical,
            "split": "pool",
            "attribute": entry["attribute"],
            "answer": votes[0][0] if top else None,
            "confidence": top / 7,
            "votes": [{"value": value, "count": count} for value, count in votes],
            "num_chains": 7,
            "num_valid": valid,
            "num_truncated": 7 - valid,
            "num_pairs": pairs,
            "gate": gate,
            "preferred": list(range(top)) if gate == "kept" else [],
        }
        counts = {"requested": 7, "valid": valid, "malformed": 7 - valid, "asked": 1, gate: 1}
        counts |= {"unanimous": int(top == 7), "paired": int(pairs > 0), "pairs": pairs}
        return row, counts

    def _train(self, scope: str) -> None:
        if scope == "pretrained":
            return
        lines = []
        for step in range(1, 25 if scope == "sft" else 15):
            fade = math.exp(-step / 6)
            line = {"step": step, "loss": (1.9 if scope == "sft" else 0.6) * fade + 0.1}
            line["learning_rate"] = 3e-5 * (0.5 + 0.5 * math.cos(math.pi * step / 25))
            line["grad_norm"] = 1.2 * fade + self.rng.random() * 0.2
            if scope != "sft":
                line["margin"] = 0.9 * (1 - fade) + self.rng.gauss(0, 0.03)
                line["reward_accuracy"] = 0.5 + 0.35 * (1 - fade) + self.rng.gauss(0, 0.01)
                line["chosen_logp"] = -38 - 2 * (1 - fade) + self.rng.gauss(0, 0.2)
                line["rejected_logp"] = -41 - 6 * (1 - fade) + self.rng.gauss(0, 0.2)
            lines.append(json.dumps(line))
        files = {"training.jsonl": "\n".join(lines).encode(), "adapter_model.safetensors": b"-"}
        self._commit(f"{scope}/adapter", None, [], files)

    def _summary(self) -> Row:
        rounds = [scope for scope in self.scopes if scope.startswith("round-")]
        names = ["catalog/listings"]
        for scope in self.scopes:
            names += [f"{scope}/chains", f"{scope}/evaluation"]
            names += [f"{scope}/adapter"] if scope != "pretrained" else []
            names += [f"{scope}/consensus"] if scope in self.funnels else []
        spent = {
            "listings": 21.4,
            "chains": 78.0,
            "evaluation": 1.9,
            "adapter": 64.0,
            "consensus": 0.4,
        }
        accuracies = {stage["name"]: stage["accuracy"] for stage in self.stages}
        accepted = [scope for scope in rounds if DECISIONS[scope] == "accepted"]
        best = accepted[-1] if accepted else self.scopes[-1]
        gain = accuracies[best] - accuracies.get("sft", 0.0)
        compared = {
            "from": "sft",
            "to": best,
            "difference": gain,
            "ci95": [gain - 0.021, gain + 0.022],
            "queries": 100,
        }
        return {
            "version": 1,
            "run": "synthetic",
            "model": "embedded:nano",
            "method": "dpo",
            "stages": self.stages,
            "best": best,
            "funnel": self.funnels,
            "pairs": [
                {
                    "round": index + 1,
                    "start": source,
                    "source": source,
                    "pairs": self.funnels[source]["pairs"],
                    "queries": self.funnels[source]["queries"]["paired"],
                    "outcome": "trained",
                    "reason": "",
                }
                for index, source in enumerate(self.funnels)
            ],
            "digests": {
                name: f"{i:032x}" for i, name in enumerate(names) if not name.endswith("chains")
            },
            "seconds": {
                name: spent[name.split("/")[1]] * self.rng.uniform(0.6, 1.3) for name in names
            },
            "comparison": compared if accepted else None,
            "alarm": None,
            "unchanged": [],
            "quarantined": {},
            "within": {},
        }


SPLITS = ("eval", "anchor")


def measure(rows: list[Row]) -> Row:
    """The figures of metrics.json; a normal interval will do here."""

    def grouped(key: Any) -> Row:
        groups: dict[str, list[bool]] = {}
        for row in rows:
            groups.setdefault(key(row), []).append(row["correct"])
        return {
            name: {"accuracy": sum(right) / len(right), "queries": len(right)}
            for name, right in sorted(groups.items())
        }

    accuracy = sum(row["correct"] for row in rows) / len(rows)
    half = 1.96 * math.sqrt(accuracy * (1 - accuracy) / len(rows))
    return {
        "accuracy": accuracy,
        "ci95": [accuracy - half, accuracy + half],
        "queries": len(rows),
        "listings": len({row["listing_id"] for row in rows}),
        "invalid": sum(row["answer"] is None for row in rows) / len(rows),
        "macro_vertical": accuracy - 0.004,
        "macro_attribute": accuracy + 0.003,
        "by_vertical": grouped(lambda row: row["vertical"]),
        "by_attribute": grouped(lambda row: f"{row['vertical']}/{row['attribute']}"),
    }


def name_counts(counts: Row) -> Row:
    """Flat counts in the shape of funnel.json."""
    chains = ("requested", "valid", "truncated", "malformed", "spilled", "out_of_schema", "missing")
    queries = ("asked", "kept", "no_valid_chain", "tie", "below_threshold", "unanimous", "paired")
    return {
        "chains": {name: counts.get(name, 0) for name in chains},
        "queries": {name: counts.get(name, 0) for name in queries},
        "pairs": counts.get("pairs", 0),
    }


def write_run(location: Path, num_listings: int, scopes: tuple[str, ...] = tuple(SKILL)) -> Run:
    """A synthetic run; a quarter of the listings are the anchor split."""
    return Experiment(location, num_listings, scopes).write()
