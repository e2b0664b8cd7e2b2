"""The queries of a listing: one question per attribute of its vertical, in schema order."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from raypipe.attributes.prompts import Question, user_prompt
from raypipe.attributes.schema import Attribute


@dataclass(frozen=True)
class Query:
    """One question; ``seller_value`` is what the seller said, untouched, and is never asked."""

    attribute: str
    prompt: str
    options: tuple[str, ...]
    seller_value: str | None


def queries_of(
    attributes: Iterable[Attribute], seller_values: Mapping[str, str]
) -> tuple[Query, ...]:
    """One query per attribute.

    Args:
        attributes: all attributes of the listing's vertical.
        seller_values: attribute name to the seller's text; names that are not asked are left out.
    """
    return tuple(
        Query(
            attribute=attribute.name,
            prompt=_prompt(
                Question(
                    attribute.vertical, attribute.name, attribute.description, attribute.values
                )
            ),
            options=attribute.values,
            seller_value=seller_values.get(attribute.name),
        )
        for attribute in attributes
    )


@lru_cache(maxsize=4096)
def _prompt(question: Question) -> str:
    """All listings of a vertical are asked the same."""
    return user_prompt(question)
