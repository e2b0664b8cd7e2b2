"""Chains from a server that speaks the chat-completions protocol, right, wrong and broken."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raypipe.attributes.prompts import SYSTEM_PROMPTS
from raypipe.config import Config, resolve
from raypipe.errors import ConfigError, QuarantineLimitError
from raypipe.sampling import endpoint
from raypipe.schemas import CHAINS, LISTINGS
from raypipe.store.artifacts import Run
from tests.conftest import CommitRows, MakeListing
from tests.fakes.chat_server import Asked, ChatServer, completion, shorten_pauses

KEY = "sk-canary-5f0c1d"
SCOPE = "evaluations/m-1"
ATTRIBUTES = ("colour", "heel")
SAID = "<reasoning>so</reasoning><answer>Red</answer>"


def right(asked: Asked) -> tuple[int, Any]:
    return completion(SAID)


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer(right) as server:
        yield server


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    shorten_pauses(monkeypatch)


@pytest.fixture
def listings(run: Run, commit_rows: CommitRows, make_listing: MakeListing) -> list[str]:
    """Six listings of eval and anchor, and one of the pool that is asked nothing."""
    ids = [f"l{index}" for index in range(6)]
    rows = [make_listing(name, "anchor" if name == "l0" else "eval", ATTRIBUTES) for name in ids]
    commit_rows(run, "catalog/listings", LISTINGS, [*rows, make_listing("p", "pool")], per_file=4)
    return ids


def config_of(server: ChatServer, **changes: Any) -> Config:
    evals = {
        "endpoint": server.url,
        "endpoint_model": "m",
        "api_key_variable": "JUDGE_KEY",
        "max_attempts": 3,
        "concurrency": 3,
    } | changes
    return resolve({"evals": evals, "sampling": {"listings_per_call": 2, "max_tokens": 40}})


def chains_of(run: Run) -> dict[tuple[str, str], dict[str, Any]]:
    rows = run.artifact(f"{SCOPE}/chains", CHAINS).read().to_pylist()
    return {
        (row["listing_id"], query["attribute"]): query["greedy"]
        for row in rows
        for query in row["queries"]
    }


def refused(run: Run) -> dict[str, str]:
    rows = run.artifact(f"{SCOPE}/chains", CHAINS).read(kind="quarantine").to_pylist()
    assert {row["reason"] for row in rows} <= {"endpoint_error"}
    return {row["id"]: row["detail"] for row in rows}


def assert_no_key(run: Run) -> None:
    files = [path for path in Path(run.location).rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def test_every_query_is_asked_as_the_engine_would_be_asked(
    run: Run, server: ChatServer, listings: list[str]
) -> None:
    commit = endpoint.run(config_of(server), run, scope=SCOPE)
    prompts = Counter(asked.prompt for asked in server.asked)
    assert prompts == Counter(f"{name} of {it}?" for it in listings for name in ATTRIBUTES)
    for asked in server.asked:
        assert asked.headers["authorization"] == f"Bearer {KEY}"
        assert asked.system == SYSTEM_PROMPTS["reasoning"]
        assert asked.images == [f"image of {asked.prompt.split()[-1].rstrip('?')}".encode()]
        settings = {name: value for name, value in asked.body.items() if name != "messages"}
        assert settings == {"model": "m", "temperature": 0, "max_tokens": 40}
    assert commit.rows == 6
    assert commit.counts == {
        "listings": 6,
        "salvaged": 0,
        "queries": 12,
        "chains": 12,
        "tokens": 84,
        "prompt_tokens": 600,
    }
    chain = chains_of(run)["l3", "heel"]
    assert math.isnan(chain.pop("logprob"))
    assert chain == {"text": SAID, "token_ids": [], "finish_reason": "stop"}
    assert len([file for file in commit.files if file.kind == "data"]) == 3
    assert_no_key(run)


def test_a_second_call_asks_nothing(run: Run, server: ChatServer, listings: list[str]) -> None:
    first = endpoint.run(config_of(server), run, scope=SCOPE)
    server.asked.clear()
    second = endpoint.run(config_of(server, concurrency=1), run, scope=SCOPE)
    assert second.reused
    assert (second.digest, server.asked) == (first.digest, [])


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_stops_at_once_and_what_was_answered_is_kept(
    run: Run, server: ChatServer, listings: list[str], status: int
) -> None:
    def revoked(asked: Asked) -> tuple[int, Any]:
        if "l4" in asked.prompt:
            return status, {"error": {"message": f"Incorrect API key provided: {KEY}"}}
        return right(asked)

    server.answer = revoked
    with pytest.raises(ConfigError, match=rf"the key in JUDGE_KEY: status {status}") as raised:
        endpoint.run(config_of(server, concurrency=1), run, scope=SCOPE)
    assert KEY not in str(raised.value)
    assert len(server.asked) <= 10  # never tried again
    server.answer = right
    server.asked.clear()
    commit = endpoint.run(config_of(server), run, scope=SCOPE)
    assert commit.counts["salvaged"] == 4
    assert {asked.prompt.split()[-1] for asked in server.asked} == {"l4?", "l5?"}
    assert len(chains_of(run)) == 12
    assert_no_key(run)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_or_broken_server_is_asked_again(
    run: Run, server: ChatServer, listings: list[str], status: int
) -> None:
    seen: Counter[str] = Counter()

    def busy(asked: Asked) -> tuple[int, Any]:
        seen[asked.prompt] += 1
        if seen[asked.prompt] < 3:
            return status, {"error": {"message": "later"}}
        return right(asked)

    server.answer = busy
    commit = endpoint.run(config_of(server), run, scope=SCOPE)
    assert commit.quarantined == 0
    assert set(seen.values()) == {3}


def counting(tokens: bytes) -> bytes:
    """A right answer, with what it says of its length."""
    whole = json.dumps(completion(SAID)[1]).encode()
    return whole.replace(b'"prompt_tokens": 50', b'"prompt_tokens": ' + tokens)


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        ((500, {"error": {"message": f"broken by {KEY}"}}), "500.*broken by \\*\\*\\*"),
        ((400, {"error": {"message": "image too large"}}), "400.*image too large"),
        ((200, b"<html>a portal</html>"), "something else than a chat completion"),
        ((200, {"choices": [{"message": None}]}), "something else than a chat completion"),
        ((200, b"[" * 100_000), "something else than a chat completion"),
        ((200, b'{"choices": ' + b"9" * 100_000 + b"}"), "something else than a chat completion"),
        ((200, counting(b"9" * 5000)), "something else than a chat completion"),
        ((200, counting(b"1e300")), "something else than a chat completion"),
        ((200, counting(b"-50")), "something else than a chat completion"),
        (
            (200, b'{"choices": [{"message": {"content": "\\ud800"}}]}'),
            "something else than a chat",
        ),
        ((400, b'{"error": ' + b"[" * 100_000), "400"),
        ((400, {"error": {"message": "\ud800", "code": [1], "param": {}}}), "400"),
        ((400, [{"error": 3}]), "400"),
        ((400, b"\xff\0"), "400"),
    ],
)
def test_a_request_that_fails_for_good_refuses_its_listing(
    run: Run, server: ChatServer, listings: list[str], failure: tuple[int, Any], says: str
) -> None:
    server.answer = lambda asked: failure if asked.prompt == "heel of l2?" else right(asked)
    config = config_of(server).model_copy(update={"catalog": lenient()})
    commit = endpoint.run(config, run, scope=SCOPE)
    assert (commit.rows, commit.quarantined) == (5, 1)
    details = refused(run)
    assert list(details) == ["l2"]
    assert_match(says, details["l2"])
    assert ("l2", "colour") not in chains_of(run)
    assert_no_key(run)


def lenient() -> Any:
    return resolve({"catalog": {"embedded": {}, "max_quarantined": 0.5}}).catalog


def assert_match(pattern: str, text: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){pattern}"):
        raise ValueError(text)


def test_a_server_that_fails_everywhere_ends_the_call_and_is_asked_again_by_the_next(
    run: Run, server: ChatServer, listings: list[str]
) -> None:
    server.answer = lambda asked: (404, {"error": {"message": "no such model"}})
    with pytest.raises(QuarantineLimitError, match="no such model"):
        endpoint.run(config_of(server), run, scope=SCOPE)
    server.answer = right
    commit = endpoint.run(config_of(server), run, scope=SCOPE)
    assert (commit.rows, commit.quarantined) == (6, 0)


def test_a_server_out_of_reach_says_so(run: Run, server: ChatServer, listings: list[str]) -> None:
    config = config_of(server, endpoint="http://127.0.0.1:9/v1", max_attempts=1)
    with pytest.raises(QuarantineLimitError, match="APIConnectionError"):
        endpoint.run(config, run, scope=SCOPE)


@pytest.mark.parametrize(
    ("answer", "text", "reason"),
    [
        (completion("I cannot help with that."), "I cannot help with that.", "stop"),
        (completion(None, "content_filter"), "", "content_filter"),
        (completion("<reasoning>and so", "length"), "<reasoning>and so", "length"),
        ((200, {"choices": []}), "", "no_choice"),
        (completion(f"your key is {KEY}"), "your key is ***", "stop"),
    ],
)
def test_a_refusal_or_an_empty_answer_is_a_chain(
    run: Run,
    server: ChatServer,
    listings: list[str],
    answer: tuple[int, Any],
    text: str,
    reason: str,
) -> None:
    server.answer = lambda asked: answer
    assert endpoint.run(config_of(server), run, scope=SCOPE).quarantined == 0
    chain = chains_of(run)["l1", "colour"]
    assert (chain["text"], chain["finish_reason"]) == (text, reason)
    assert_no_key(run)


def test_a_server_without_keys_is_sent_none(
    run: Run, server: ChatServer, listings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    endpoint.run(config_of(server, api_key_variable=None), run, scope=SCOPE)
    assert {asked.headers["authorization"] for asked in server.asked} == {"Bearer none"}


@pytest.mark.parametrize(
    ("endpoint", "named", "variable"),
    [
        ("https://api.openai.com/v1", None, "OPENAI_API_KEY"),
        ("https://API.OpenAI.com:443/v1", None, "OPENAI_API_KEY"),
        ("https://api.openai.com/v1", "SHOP_KEY", "SHOP_KEY"),
        ("https://api.openai.com.evil.example/v1", None, None),
        ("https://openai.com/v1", None, None),
        ("https://api.openai.com:8443/v1", None, None),
        ("http://api.openai.com/v1", None, None),
        ("https://eu.api.openai.com/v1", None, None),
        ("http://127.0.0.1:8000/v1", None, None),
        ("https://models.example/v1", "OPENAI_API_KEY", "OPENAI_API_KEY"),
    ],
)
def test_openai_s_key_is_of_openai_alone_unless_it_is_named(
    endpoint: str, named: str | None, variable: str | None
) -> None:
    values = {"endpoint": endpoint, "endpoint_model": "m", "api_key_variable": named}
    for section in ("evals", "annotation"):
        assert getattr(resolve({section: values}), section).key_variable == variable


@pytest.mark.parametrize(
    ("host", "taken"),
    [
        *(("127.0.0.1", True), ("127.8.0.1:80", True), ("localhost:8000", True), ("[::1]:1", True)),
        *(("10.0.0.7", False), ("models.example", False), ("localhost.example", False)),
        *(("0.0.0.0", False), ("127.0.0.1.example", False), ("[::2]:1", False)),
    ],
)
def test_a_key_goes_over_http_to_this_machine_alone(host: str, taken: bool) -> None:
    plain = {"endpoint": f"http://{host}/v1", "endpoint_model": "m"}
    named = {"evals": plain | {"api_key_variable": "JUDGE_KEY"}}
    assert resolve({"evals": plain}).evals.key_variable is None
    if taken:
        resolve(named)
        return
    with pytest.raises(ConfigError, match=r"the key in JUDGE_KEY would go to .* unencrypted"):
        resolve(named)


def test_another_server_is_sent_nothing_of_openai_s(
    run: Run, server: ChatServer, listings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID", "WEBHOOK_SECRET"):
        monkeypatch.setenv(f"OPENAI_{name}", f"{KEY}-{name}")
    headers = f"Authorization: Bearer {KEY}\nX-Own: {KEY}\napi-key: {KEY}"
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", headers)
    endpoint.run(config_of(server, api_key_variable=None), run, scope=SCOPE)
    assert {asked.headers["authorization"] for asked in server.asked} == {"Bearer none"}
    assert [asked.headers for asked in server.asked if KEY in str(asked.headers)] == []


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_no_redirect_is_followed(
    run: Run, server: ChatServer, listings: list[str], status: int
) -> None:
    with ChatServer(right) as elsewhere:
        server.answer = lambda asked: (status, {"error": {"message": "moved"}})
        server.location = f"{elsewhere.url}/chat/completions"
        with pytest.raises(ConfigError, match="redirects elsewhere"):
            endpoint.run(config_of(server), run, scope=SCOPE)
        assert elsewhere.asked == []


def test_what_is_for_this_machine_goes_through_no_proxy(
    run: Run, server: ChatServer, listings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_PROXY")
    with ChatServer(right) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        endpoint.run(config_of(server), run, scope=SCOPE)
        assert proxy.asked == []
    assert server.asked


def test_a_key_that_no_header_can_carry_is_refused_without_naming_it(
    run: Run, server: ChatServer, listings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-\u2026")
    with pytest.raises(ConfigError, match="JUDGE_KEY cannot be a key") as raised:
        endpoint.run(config_of(server), run, scope=SCOPE)
    assert "sk-" not in str(raised.value)


def test_no_word_of_a_server_repeats_the_key_or_is_without_end(
    run: Run, server: ChatServer, listings: list[str]
) -> None:
    def repeats(asked: Asked) -> tuple[int, Any]:
        status, answer = completion("Red")
        answer["choices"][0]["finish_reason"] = f"{KEY} {'again ' * 10_000}"
        return status, answer

    server.answer = repeats
    endpoint.run(config_of(server), run, scope=SCOPE)
    reasons = {chain["finish_reason"] for chain in chains_of(run).values()}
    assert all(len(reason) <= 64 for reason in reasons)
    assert_no_key(run)
