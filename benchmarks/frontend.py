"""What log-probabilities cost vLLM's front-end: µs of CPU for each generated token.

    python benchmarks/frontend.py

The front-end is the process that asks the engine and assembles its answers; on a GPU it may be what
limits sampling. Messages as the engine sends them, for 511 sequences of seven chains a prompt, are
decoded and processed by vLLM's own classes: without log-probabilities (a round's chains), with them
as a flat list (labels), and as an object for each token (vLLM's default). The three take turns;
medians are printed. The last line is JSON:

    {"benchmark": "frontend", "none": µs, "flat": µs, "objects": µs}
"""

import itertools
import json
import os
import statistics
import sys
import time
from copy import copy
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import numpy as np

from raypipe.config import ModelConfig
from raypipe.models.policies import model_path

PROMPTS, CHAINS, STEPS, REPEATS = 73, 7, 40, 5
WAYS: dict[str, dict[str, Any]] = {
    "none": {"logprobs": None},
    "flat": {"logprobs": 0, "flat_logprobs": True},
    "objects": {"logprobs": 0},
}


class FrontEnd:
    """vLLM's classes between a request and its answer, for the nano model."""

    def __init__(self) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.renderers import renderer_from_config
        from vllm.v1.engine.input_processor import InputProcessor

        asked = AsyncEngineArgs(model=model_path(ModelConfig()), max_model_len=2048, seed=0)
        config = asked.create_engine_config()
        renderer = renderer_from_config(config)
        self.tokenizer = renderer.get_tokenizer()
        self._inputs = InputProcessor(config, renderer)

    def open(self, processor: Any, settings: dict[str, Any]) -> list[str]:
        """Open all requests; the ids of their chains."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.output_processor import RequestOutputCollector
        from vllm.v1.engine.parallel_sampling import ParentRequest

        names = []
        for number in range(PROMPTS):
            parameters = SamplingParams(
                n=CHAINS,
                max_tokens=100,
                seed=number,
                output_kind=RequestOutputKind.FINAL_ONLY,
                **settings,
            )
            prompt = {"prompt": "what is the color of this shirt"}
            request = self._inputs.process_inputs(str(number), prompt, parameters, ("generate",))
            self._inputs.assign_request_id(request)
            parent = ParentRequest(request)
            queue = RequestOutputCollector(parameters.output_kind, request.request_id)
            for chain in range(CHAINS):
                child = copy(request)
                child.request_id, child.sampling_params = parent.get_child_info(chain)
                processor.add_request(child, None, parent, chain, queue)
                names.append(child.request_id)
        return names


def messages(names: list[str], *, logprobs: bool, first: int, last: int) -> list[list[bytes]]:
    """What the engine would send, a message for each step."""
    from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
    from vllm.v1.outputs import LogprobsLists
    from vllm.v1.serial_utils import MsgpackEncoder

    encoder, drawn = MsgpackEncoder(), itertools.cycle(range(first, last))
    sent = []
    for _ in range(STEPS):
        outputs = []
        for name in names:
            token = next(drawn)
            told = None
            if logprobs:
                row = np.array([[token]], np.int32), np.array([[-0.5]], np.float32)
                told = LogprobsLists(*row, np.array([1], np.int32))
            outputs.append(EngineCoreOutput(name, [token], new_logprobs=told))
        encoded = encoder.encode(EngineCoreOutputs(outputs=outputs))
        sent.append([bytes(part) for part in encoded])
    return sent


def microseconds(front_end: FrontEnd, settings: dict[str, Any]) -> float:
    """CPU time of decoding and processing, for each token."""
    from vllm.v1.engine import EngineCoreOutputs
    from vllm.v1.engine.output_processor import OutputProcessor
    from vllm.v1.serial_utils import MsgpackDecoder

    processor = OutputProcessor(front_end.tokenizer, log_stats=False)
    names = front_end.open(processor, settings)
    size = len(front_end.tokenizer)
    sent = messages(names, logprobs=settings["logprobs"] == 0, first=size // 3, last=size - 60)
    decoder = MsgpackDecoder(EngineCoreOutputs)
    started = time.process_time()
    for message in sent:
        processor.process_outputs(decoder.decode(message).outputs)
    return (time.process_time() - started) / (len(names) * STEPS) * 1e6


def main() -> None:
    front_end = FrontEnd()
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(REPEATS):
        for way, settings in WAYS.items():
            found[way].append(microseconds(front_end, settings))
            print(f"  {way:8s} {found[way][-1]:6.1f} µs a token", file=sys.stderr, flush=True)
    medians = {way: round(statistics.median(values), 1) for way, values in found.items()}
    print(json.dumps({"benchmark": "frontend", **medians}))


if __name__ == "__main__":
    main()
