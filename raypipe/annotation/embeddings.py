"""Listing embeddings: the mean output of the base model's vision tower."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from raypipe.config import ModelConfig
from raypipe.models.base_model import load_base_model
from raypipe.models.policies import model_path
from raypipe.models.processors import load_processor


def embed(tables: Iterable[pa.Table], config: ModelConfig) -> dict[str, np.ndarray]:
    """A unit vector of each listing, shape (dimension,): the mean over its images.

    Args:
        tables: ``listing_id`` and ``images`` of prepared listings, at the model's size.
        config: the base model; it is loaded here, on a GPU where there is one.
    """
    import torch

    path, revision = model_path(config), config.revision
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images = load_processor(path, revision).image_processor
    model = load_base_model(path, revision, config.dtype).to(device)
    found: dict[str, np.ndarray] = {}
    with torch.inference_mode():
        for table in tables:
            for batch in table.to_batches(max_chunksize=1):
                (row,) = batch.to_pylist()
                found[row["listing_id"]] = _embedding(row["images"], images, model)
    return found


def _embedding(encoded: list[bytes], images: Any, model: Any) -> np.ndarray:
    import io

    from PIL import Image

    pictures = [Image.open(io.BytesIO(content)).convert("RGB") for content in encoded]
    pixels = images(images=pictures, return_tensors="pt").to(model.device)
    features = model.get_image_features(
        pixels["pixel_values"].to(model.dtype), pixels["image_grid_thw"]
    )
    means = [image.float().mean(dim=0) for image in features.pooler_output]
    mean = sum(means).cpu().numpy() / len(means)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), dtype=np.float32)
