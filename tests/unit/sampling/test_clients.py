"""The engine in this process, with a scripted vLLM below it."""

import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from raypipe.errors import EngineDiedError
from raypipe.sampling.clients import InProcessEngine

TOO_LONG, DEADLY = "too long", "deadly"


class ScriptedLLMEngine:
    """Finishes a request in its second step; notes the thread that each call came from."""

    model_config = SimpleNamespace(max_model_len=1024)

    def __init__(self) -> None:
        self.threads = {threading.get_ident()}
        self._under_way: dict[str, list[Any]] = {}

    @classmethod
    def from_engine_args(cls, arguments: dict[str, Any], usage_context: str) -> "ScriptedLLMEngine":
        assert usage_context == "the LLM class"
        if arguments["model"] == "nowhere":
            raise OSError("there is no such model")
        return cls()

    def get_tokenizer(self) -> str:
        return "tokenizer"

    def has_unfinished_requests(self) -> bool:
        return bool(self._under_way)

    def add_request(self, name: str, prompt: str, parameters: Any, lora_request: Any) -> None:
        self.threads.add(threading.get_ident())
        if prompt == TOO_LONG:
            raise ValueError("the prompt is too long")
        self._under_way[name] = [prompt, 2]

    def step(self) -> list[Any]:
        self.threads.add(threading.get_ident())
        outputs = []
        for name, request in list(self._under_way.items()):
            if request[0] == DEADLY:
                raise RuntimeError("out of memory")
            request[1] -= 1
            finished = not request[1]
            outputs.append(SimpleNamespace(request_id=name, finished=finished, said=request[0]))
            if finished:
                del self._under_way[name]
        return outputs


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Any:
    vllm = ModuleType("vllm")
    vllm.EngineArgs = dict  # type: ignore[attr-defined]
    vllm.LLMEngine = ScriptedLLMEngine  # type: ignore[attr-defined]
    usage = ModuleType("vllm.usage.usage_lib")
    usage.UsageContext = SimpleNamespace(LLM_CLASS="the LLM class")  # type: ignore[attr-defined]
    for module in (vllm, ModuleType("vllm.usage"), usage):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return lambda model="nano": InProcessEngine({"model": model})


def ask(engine: InProcessEngine, prompt: str) -> "Future[Any]":
    return engine.submit(prompt, None, None)


def test_requests_of_several_threads_each_get_their_own_final_output(start: Any) -> None:
    engine = start()
    prompts = [f"prompt {number}" for number in range(200)]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda prompt: ask(engine, prompt), prompts))
    outputs = [answer.result(10) for answer in answers]
    assert [output.said for output in outputs] == prompts
    assert all(output.finished for output in outputs)


def test_the_thread_that_started_the_engine_is_the_only_one_that_calls_it(start: Any) -> None:
    engine = start()
    ask(engine, "a").result(10)
    (only,) = engine._engine.threads
    assert only != threading.get_ident()


def test_a_refused_prompt_fails_alone(start: Any) -> None:
    engine = start()
    before, refused, after = (ask(engine, prompt) for prompt in ("a", TOO_LONG, "b"))
    with pytest.raises(ValueError, match="too long"):
        refused.result(10)
    assert (before.result(10).said, after.result(10).said) == ("a", "b")


def test_a_broken_engine_fails_what_is_under_way_and_whatever_comes_later(start: Any) -> None:
    engine = start()
    for answer in [ask(engine, prompt) for prompt in ("a", DEADLY)]:
        with pytest.raises(EngineDiedError, match="out of memory"):
            answer.result(10)
    with pytest.raises(EngineDiedError, match="out of memory"):
        ask(engine, "b").result(10)


def test_an_engine_that_does_not_start_raises_where_it_was_asked_for(start: Any) -> None:
    with pytest.raises(OSError, match="no such model"):
        start("nowhere")
