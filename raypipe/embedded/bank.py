"""Photos to pretrain on: drawn once, by several processes, from seeds no catalog uses."""

import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from raypipe.embedded.canvas import Pixels
from raypipe.embedded.drawing import CATALOG, PRETRAINING, Style, photograph
from raypipe.embedded.look import Product
from raypipe.embedded.schema import VIEWS, attributes, verticals
from raypipe.seeds import derive

# Most pretraining photos are clean; some are as unkind as the catalog's.
UNKIND_SHARE = 0.35


@dataclass(frozen=True)
class Photo:
    """A product in one of its views."""

    product: Product
    view: str


def pretraining_product(index: int) -> Product:
    """A product that no embedded catalog sells."""
    lottery = random.Random(derive("pretraining", index))
    vertical = lottery.choice(verticals())
    values = {entry.name: lottery.choice(entry.values) for entry in attributes()[vertical]}
    return Product(vertical, values, lottery.getrandbits(40))


def draw_views(index: int) -> list[tuple[Photo, Pixels]]:
    """Every view of one pretraining product."""
    product = pretraining_product(index)
    lottery = random.Random(derive("pretraining views", index))
    drawn = []
    for view in VIEWS[product.vertical]:
        style = CATALOG if lottery.random() < UNKIND_SHARE else PRETRAINING
        pixels = photograph(product, view, _without_cover(style), seed=lottery.getrandbits(40))
        drawn.append((Photo(product, view), pixels))
    return drawn


def draw_bank(indices: Sequence[int], *, num_processes: int = 2) -> list[tuple[Photo, Pixels]]:
    """All views of many products, product by product; pixels (112, 112, 3)."""
    with ProcessPoolExecutor(num_processes) as pool:
        drawn = list(pool.map(draw_views, indices, chunksize=64))
    return [photo for views in drawn for photo in views]


def stacked(photos: Sequence[tuple[Photo, Pixels]]) -> np.ndarray:
    """The pixels of photos as one array (photos, 112, 112, 3)."""
    return np.stack([pixels for _, pixels in photos])


def _without_cover(style: Style) -> Style:
    """A caption should not be taught from a photo whose product a finger covers."""
    return replace(style, occlusion=style.occlusion / 3)
