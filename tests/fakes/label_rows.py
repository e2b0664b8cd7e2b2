"""Rows of LABELS."""

from tests.conftest import Row


def label(listing_id: str, key: str, attribute: str = "colour") -> Row:
    return {
        "listing_id": listing_id,
        "vertical": "Shoe",
        "split": "pool",
        "attribute": attribute,
        "value": "Red",
        "reason": "published",
        "answer": "Red",
        "confidence": 1.0,
        "probability": 0.9,
        "votes": [{"value": "Red", "count": 7}],
        "num_chains": 7,
        "num_valid": 7,
        "reasoning": "It is red.",
        "seller_value": None,
        "seller_conflict": None,
        "policy_id": "p",
        "template": "t",
        "schema_version": "s",
        "label_key": key,
        "versions": "torch 1.0",
    }
