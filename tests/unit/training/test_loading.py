"""No file of a run runs code when DeepSpeed, PEFT or transformers load it for us."""

import ast
import inspect
import os
import pickle
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from raypipe.training.checkpoint_files import load_tensors_only


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture(autouse=True)
def _as_in_a_training(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a training worker calls first; a variable of the user's cannot take it back."""
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    before = torch.serialization.get_safe_globals()
    load_tensors_only()
    yield
    os.environ.pop("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(before)


def deepspeeds(path: Path) -> Any:
    from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

    return TorchCheckpointEngine(None).load(str(path), map_location="cpu")


def pefts(path: Path) -> Any:
    from peft import load_peft_weights

    (path.parent / "adapter_model.bin").write_bytes(path.read_bytes())
    return load_peft_weights(str(path.parent), device="cpu")


def the_models(path: Path) -> Any:
    from transformers.modeling_utils import load_state_dict

    return load_state_dict(path)


def the_trainers(path: Path) -> Any:
    from transformers.trainer_pt_utils import safe_globals

    with safe_globals():  # as Trainer._load_rng_state has it
        return torch.load(path, weights_only=True)


def anybodys(path: Path) -> Any:
    return torch.load(path, weights_only=False)


LOADERS = [deepspeeds, pefts, the_models, the_trainers, anybodys]


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_calls_something_is_refused(
    load: Callable[[Path], Any], zipped: bool, tmp_path: Path
) -> None:
    path, mark = tmp_path / "state.pt", tmp_path / "mark"
    torch.save({"module": Bomb(mark)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        load(path)
    assert not mark.exists()


@pytest.mark.parametrize("load", LOADERS)
def test_tensors_are_loaded(load: Callable[[Path], Any], tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "state.pt")
    assert load(tmp_path / "state.pt")["weight"].tolist() == [1, 1]


def test_deepspeeds_states_are_loaded(tmp_path: Path) -> None:
    """The classes that the states of ZeRO 1, 2 and 3 hold others tensors."""
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    state = {
        "loss_scaler": LossScaler(1.0),
        "zero_stage": ZeroStageEnum.gradients,
        "param_slice_mappings": [{"lora_A": fragment_address(numel=8, start=0)}],
    }
    torch.save(state, tmp_path / "state.pt")
    loaded = deepspeeds(tmp_path / "state.pt")
    assert loaded["param_slice_mappings"] == state["param_slice_mappings"]
    assert loaded["zero_stage"] == 2
    assert loaded["loss_scaler"].cur_scale == 1.0


def test_what_is_loaded_for_us_is_what_is_written_down() -> None:
    """Where the installed packages load a file of a run, and how; docs/security.md has the table.

    DeepSpeed's is the only one that leaves the guard out. A package that changes is looked at anew.
    """
    from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
    from peft.utils.save_and_load import torch_load
    from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
    from transformers import Trainer, TrainerState
    from transformers.modeling_utils import load_state_dict

    loads = {
        TorchCheckpointEngine.load: ["weights_only=False"],
        Trainer._load_rng_state: ["weights_only=True"],
        Trainer._load_optimizer_and_scheduler: ["weights_only=True"] * 6,
        Trainer._load_scaler: ["weights_only=True"] * 2,
        load_state_dict: ["weights_only=weights_only"],
        torch_load: ["weights_only=weights_only"],
        TrainerState.load_from_json: [],
        CheckpointManager._load_state: [],
        CheckpointManager._maybe_load_state_from_storage: [],
    }
    found = {load: guards(load) for load in loads}
    assert found == loads
    for load in (load_state_dict, torch_load):
        assert inspect.signature(load).parameters["weights_only"].default is True


def guards(function: Any) -> list[str]:
    """How each call of torch.load or pickle.load in a function is guarded."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [
        " ".join(ast.unparse(word) for word in call.keywords if word.arg == "weights_only")
        for call in calls
        if ast.unparse(call.func) in ("torch.load", "pickle.load", "pickle.loads")
    ]
