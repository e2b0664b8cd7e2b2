"""All windows of a vision tower at once give what transformers gives one by one."""

import copy

import pytest
import torch
from transformers import Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
)

from raypipe.training import vision


@pytest.fixture(scope="module")
def tower() -> Qwen2_5_VisionTransformerPretrainedModel:
    """Windows of 4 x 4 merged patches in the first layer, whole images in the second."""
    torch.manual_seed(0)
    settings = Qwen2_5_VLConfig(
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": 32,
            "window_size": 112,
            "fullatt_block_indexes": [1],
            "patch_size": 14,
            "spatial_merge_size": 2,
        }
    ).vision_config
    settings._attn_implementation = "sdpa"
    return Qwen2_5_VisionTransformerPretrainedModel(settings).double().eval()


@pytest.mark.parametrize(
    "grids",
    [
        [(1, 16, 16)],
        [(1, 16, 16), (1, 16, 16), (1, 16, 16)],
        [(1, 12, 20), (1, 6, 8), (1, 16, 16)],
        [(1, 2, 2), (1, 2, 2)],
    ],
    ids=["one image", "equal images", "images and windows of any size", "the smallest"],
)
def test_the_result_is_that_of_transformers(
    tower: Qwen2_5_VisionTransformerPretrainedModel, grids: list[tuple[int, int, int]]
) -> None:
    sizes = torch.tensor(grids)
    pixels = torch.randn(int(sizes.prod(dim=1).sum()), 3 * 2 * 14 * 14, dtype=torch.float64)
    batched = copy.deepcopy(tower)
    vision.register()
    batched.config._attn_implementation = vision.NAME
    with torch.no_grad():
        wanted, found = (model(pixels, sizes).pooler_output for model in (tower, batched))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_a_layer_makes_one_call_for_all_windows_of_one_length(
    tower: Qwen2_5_VisionTransformerPretrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, ...]] = []
    plain = vision.attend

    def counted(query: torch.Tensor, *rest: torch.Tensor, **options: float) -> torch.Tensor:
        calls.append(tuple(query.shape))
        return plain(query, *rest, **options)

    monkeypatch.setattr(vision, "attend", counted)
    batched = copy.deepcopy(tower)
    vision.register()
    batched.config._attn_implementation = vision.NAME
    with torch.no_grad():
        batched(torch.randn(512, 1176, dtype=torch.float64), torch.tensor([[1, 16, 16]] * 2))
    assert calls == [(8, 2, 64, 16), (2, 2, 256, 16)]
