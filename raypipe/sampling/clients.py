"""Two ways to a vLLM engine, which the threads of an actor share.

``SeparateEngine`` is vLLM's ``AsyncLLM``: the engine in processes of its own, prompts prepared
while it computes, as a GPU wants it. ``InProcessEngine`` steps the engine in a thread of this
process: on a few cores the processes would fight for them, and it starts sooner.
``sampling.engine_in_actor`` chooses.
"""

import asyncio
import itertools
import os
import queue
import threading
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple, Protocol

from raypipe.errors import EngineDiedError


class Client(Protocol):
    """An engine that answers requests in any order."""

    tokenizer: Any
    max_model_len: int

    def submit(self, prompt: Any, parameters: Any, lora: Any) -> "Future[Any]":
        """The final ``RequestOutput`` of a request, once it is there; several threads may ask.

        The future raises EngineDiedError when the engine is gone, and what vLLM raises when it
        refuses this one request.
        """


class SeparateEngine:
    """AsyncLLM on an event loop in a thread of its own."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._loop = asyncio.new_event_loop()
        self._numbers = itertools.count()
        threading.Thread(target=self._loop.run_forever, name="engine", daemon=True).start()
        self._llm = self._scheduled(_async_llm(arguments)).result()
        self.tokenizer = self._llm.get_tokenizer()
        self.max_model_len = int(self._llm.model_config.max_model_len)

    def submit(self, prompt: Any, parameters: Any, lora: Any) -> "Future[Any]":
        return self._scheduled(self._answered(prompt, parameters, lora))

    def _scheduled(self, work: Coroutine[Any, Any, Any]) -> "Future[Any]":
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _answered(self, prompt: Any, parameters: Any, lora: Any) -> Any:
        from vllm.v1.engine.exceptions import EngineDeadError

        name = str(next(self._numbers))
        outputs = self._llm.generate(prompt, parameters, request_id=name, lora_request=lora)
        try:
            return [output async for output in outputs][-1]
        except EngineDeadError as error:
            raise EngineDiedError(str(error)) from error


async def _async_llm(arguments: Mapping[str, Any]) -> Any:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    asked = AsyncEngineArgs(**arguments, enable_log_requests=False)
    # How many sequences and tokens a step takes by default depends on it: as many as for LLM.
    return AsyncLLM.from_engine_args(asked, usage_context=UsageContext.LLM_CLASS)


def _llm_engine(arguments: Mapping[str, Any]) -> Any:
    """An engine that computes in the calling thread, to which OpenMP's threads then belong."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # else the engine is another process
    import torch
    from vllm import EngineArgs, LLMEngine
    from vllm.usage.usage_lib import UsageContext

    # Ray's worker may have loaded OpenMP with one.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    return LLMEngine.from_engine_args(EngineArgs(**arguments), usage_context=UsageContext.LLM_CLASS)


class _Asked(NamedTuple):
    prompt: Any
    parameters: Any
    lora: Any
    answer: "Future[Any]"


class InProcessEngine:
    """An engine stepped by one thread, which takes up what is asked between two steps."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._inbox: queue.SimpleQueue[_Asked] = queue.SimpleQueue()
        self._open: dict[str, Future[Any]] = {}
        started: Future[Any] = Future()
        run = partial(self._run, arguments, started)
        threading.Thread(target=run, name="engine", daemon=True).start()
        self._engine = started.result()
        self.tokenizer = self._engine.get_tokenizer()
        self.max_model_len = int(self._engine.model_config.max_model_len)

    def submit(self, prompt: Any, parameters: Any, lora: Any) -> "Future[Any]":
        asked = _Asked(prompt, parameters, lora, Future())
        self._inbox.put(asked)
        return asked.answer

    def _run(self, arguments: Mapping[str, Any], started: "Future[Any]") -> None:
        try:
            engine = _llm_engine(arguments)
        except Exception as error:  # noqa: BLE001 - raised where the engine is waited for
            started.set_exception(error)
            return
        started.set_result(engine)
        numbers = itertools.count()
        try:
            while True:
                self._take_up(engine, numbers)
                for output in engine.step():
                    if output.finished:
                        self._open.pop(output.request_id).set_result(output)
        except Exception as error:  # noqa: BLE001 - whatever breaks a step breaks the engine
            self._die(error)

    def _take_up(self, engine: Any, numbers: "itertools.count[int]") -> None:
        """Hand over all that was asked meanwhile; wait for something when nothing is under way."""
        while not self._inbox.empty() or not engine.has_unfinished_requests():
            asked = self._inbox.get()
            name = str(next(numbers))
            try:
                engine.add_request(name, asked.prompt, asked.parameters, lora_request=asked.lora)
            except Exception as error:  # noqa: BLE001 - a refused prompt is its own matter
                asked.answer.set_exception(error)
            else:
                self._open[name] = asked.answer

    def _die(self, error: Exception) -> None:
        """Fail what is under way, and whatever is asked from now on."""
        for answer in self._open.values():
            answer.set_exception(EngineDiedError(str(error)))
        while True:
            self._inbox.get().answer.set_exception(EngineDiedError(str(error)))
