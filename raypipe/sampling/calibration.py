"""What a model is shown when a merge or a probe has to know what it does: rendered listings.

They come from the embedded catalog, so that merged weights depend on the policy alone, and no
user's listing is kept beside them.
"""

import io
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from raypipe.attributes.prompts import Question, completion, messages, user_prompt
from raypipe.embedded.catalog import RenderedListing, listing
from raypipe.seeds import derive

if TYPE_CHECKING:
    from torch import Tensor

_SEED = 13
_MOST_IMAGES = 2
_LEAST_TOKENS = 1024
_LEAST_TEXTS = 8
_TOKENS_PER_INPUT = 2
_HELD_OUT = 4
"""Every fourth listing measures, and rounds nothing."""


class Moments(NamedTuple):
    """Sums of outer products of a layer's inputs, (inputs, inputs) float32: of the listings that
    weights are rounded for, and of those that measure it."""

    fitted: "Tensor"
    held_out: "Tensor"


def texts(processor: Any, num_tokens: int) -> list[list[int]]:
    """Token ids of different texts in the words of prompts and answers, at least ``num_tokens``.

    The words are in random order: in sentences that repeat, an engine's rounding errors repeat too,
    and more of them would say nothing new.
    """
    found: list[list[int]] = []
    total = 0
    while total < num_tokens or len(found) < _LEAST_TEXTS:
        lottery = random.Random(derive("texts", len(found)))
        words = [word for part in _words(len(found), lottery) for word in part.split()]
        lottery.shuffle(words)
        turns = messages(" ".join(words), 0, "reasoning")
        text = processor.apply_chat_template(turns, tokenize=False)
        found.append(list(processor.tokenizer(text)["input_ids"]))
        total += len(found[-1])
    return found


def input_moments(model: Any, processor: Any, layers: dict[str, Any]) -> dict[str, Moments]:
    """The moments of the inputs of ``layers``, linear modules of ``model`` by name.

    Layers that are given the same tensor share them.
    """
    widest = max(layer.weight.shape[1] for layer in layers.values())
    wanted = max(_LEAST_TOKENS, _TOKENS_PER_INPUT * widest)
    fitted, index = 0, 0
    with _Recorder(layers) as recorder:
        while fitted < wanted or index < _HELD_OUT:
            recorder.held_out = index % _HELD_OUT == _HELD_OUT - 1
            num_tokens = _forward(model, processor, index)
            fitted += 0 if recorder.held_out else num_tokens
            index += 1
    return recorder.moments()


def _forward(model: Any, processor: Any, index: int) -> int:
    """One listing through the model; returns how many tokens it has."""
    import torch

    drawn = listing(_SEED, "pool", index)
    images = _images(drawn)
    text = _text(processor, index, len(images))
    inputs = processor(text=[text], images=[images], return_tensors="pt").to(model.device)
    with torch.no_grad():
        model(**{name: _cast(value, model.dtype) for name, value in inputs.items()})
    return int(inputs["input_ids"].shape[1])


def _cast(value: Any, dtype: Any) -> Any:
    return value.to(dtype) if value.is_floating_point() else value


def _images(drawn: RenderedListing) -> list[Any]:
    from PIL import Image

    encoded = drawn.images()[:_MOST_IMAGES]
    return [Image.open(io.BytesIO(content)).convert("RGB") for content in encoded]


def _text(processor: Any, index: int, num_images: int) -> str:
    """A prompt about a rendered listing, with its answer."""
    question, reasoning, answer = _words(index, random.Random(derive("prompt", index)))
    prompt = processor.apply_chat_template(
        messages(question, num_images, "reasoning"), add_generation_prompt=True, tokenize=False
    )
    return f"{prompt}{completion(answer, reasoning, 'reasoning')}"


def _words(index: int, lottery: random.Random) -> tuple[str, str, str]:
    """A question about a rendered listing, with reasoning and answer."""
    drawn = listing(_SEED, "pool", index)
    said = lottery.choice(drawn.annotation())
    entry = next(entry for entry in drawn.entries if entry.name == said["attribute"])
    options = tuple(lottery.sample(entry.values, len(entry.values)))
    question = Question(entry.vertical, entry.name, entry.description, options)
    facts = [f"{name}: {value}" for name, value in drawn.product.values.items()]
    return f"{', '.join(facts)}. {user_prompt(question)}", said["reasoning"], said["answer"]


class _Recorder:
    """Adds up the moments of what layers are given while it is open."""

    def __init__(self, layers: dict[str, Any]) -> None:
        self.held_out = False
        self._layers = layers
        self._sums: dict[tuple[str, bool], Tensor] = {}
        self._shares: dict[str, str] = {}
        self._last: tuple[Any, str] | None = None
        self._handles: list[Any] = []

    def __enter__(self) -> "_Recorder":
        for name, layer in self._layers.items():
            hook = self._hook(name)
            self._handles.append(layer.register_forward_pre_hook(hook))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def moments(self) -> dict[str, Moments]:
        owners = {name: self._shares.get(name, name) for name in self._layers}
        return {
            name: Moments(*(self._sum(owner, held_out) for held_out in (False, True)))
            for name, owner in owners.items()
        }

    def _sum(self, name: str, held_out: bool) -> "Tensor":
        """0 of a layer that nothing went through."""
        weight = self._layers[name].weight
        width = weight.shape[1]
        found = self._sums.get((name, held_out))
        return weight.new_zeros(width, width).float() if found is None else found

    def _hook(self, name: str) -> Callable[[Any, tuple[Any, ...]], None]:
        def record(_: Any, inputs: tuple[Any, ...]) -> None:
            given = inputs[0]
            if self._last is not None and self._last[0] is given:
                self._shares[name] = self._last[1]
                return
            self._last = (given, name)
            rows = given.flatten(0, -2).float()
            product = rows.T @ rows
            key = (name, self.held_out)
            self._sums[key] = self._sums[key] + product if key in self._sums else product

        return record
