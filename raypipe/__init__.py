"""raypipe: product attributes for millions of listings from a vision-language model you trained.

``import raypipe`` offers the names of :mod:`raypipe.api`, each loaded when it is first used.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raypipe.api import (
        build_conversations,
        build_prompts,
        chain_logprobs,
        dpo_loss,
        load_images,
        load_schema,
        make_pairs,
        make_targets,
        parse,
        read_labels,
        read_summary,
        vote,
    )

__version__ = "0.1.0"
__all__ = [
    "build_conversations",
    "build_prompts",
    "chain_logprobs",
    "dpo_loss",
    "load_images",
    "load_schema",
    "make_pairs",
    "make_targets",
    "parse",
    "read_labels",
    "read_summary",
    "vote",
]

if not TYPE_CHECKING:  # a type checker would take any name for one of the package

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module 'raypipe' has no attribute '{name}'")
        from raypipe import api

        return getattr(api, name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
