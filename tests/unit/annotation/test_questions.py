"""How a server is asked, and how its replies are read."""

import json
from typing import Any

import pytest

from raypipe.attributes.prompts import SYSTEM_PROMPTS
from raypipe.errors import InputError
from tests.fakes.annotation_server import (
    VALUES,
    Configure,
    answers,
    attribute_of,
    go,
    in_json,
    seed_rows,
)
from tests.fakes.catalog_files import CatalogFiles
from tests.fakes.chat_server import Asked, ChatServer, completion


def in_tags(asked: Asked) -> tuple[int, Any]:
    value = VALUES[attribute_of(asked)]
    return completion(f"<reasoning>It shows.</reasoning><answer>{value}</answer>")


def test_a_server_without_schemas_is_asked_in_the_words_of_the_training_prompt(
    configure: Configure, shop: CatalogFiles, server: ChatServer
) -> None:
    def plain(asked: Asked) -> tuple[int, Any]:
        if "response_format" in asked.body:
            return 400, {"error": {"message": "response_format is not supported"}}
        assert asked.system == SYSTEM_PROMPTS["reasoning"]
        return in_tags(asked)

    server.answer = plain
    go(configure(concurrency=1))
    assert len(server.asked) == 12 + 3  # it was asked for a schema once for each attribute
    assert len(seed_rows(shop)) == 8


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (completion("{not json"), "malformed"),
        (completion('{"reasoning": "so"}'), "malformed"),
        (completion('["Blue"]'), "malformed"),
        (completion("[" * 20_000), "malformed"),
        (completion('{"reasoning": "so", "answer": ' + "9" * 5000 + "}"), "malformed"),
        (completion('{"reasoning": "\\ud800", "answer": "Blue"}'), "malformed"),
        (completion('{"reasoning": "so", "answer": 7}'), "malformed"),
        (completion('{"reasoning": "so", "answer": "Mauve"}'), "out_of_schema"),
        (completion('{"reasoning": "so', "length"), "truncated"),
        (completion(None, "content_filter"), "refused"),
        (completion(None), "malformed"),
    ],
)
def test_garbage_and_refusals_become_rows_with_a_reason(
    configure: Configure, shop: CatalogFiles, server: ChatServer, reply: Any, reason: str
) -> None:
    server.answer = lambda asked: reply if attribute_of(asked) == "heel" else in_json(asked)
    go(configure())
    rows = answers(configure())
    assert {row["reason"] for row in rows if row["attribute"] == "heel"} == {reason}
    assert {row["reason"] for row in rows if row["attribute"] != "heel"} == {"ok"}
    assert {tuple(given) for given in seed_rows(shop).values()} == {("color",), ("dial",)}


def test_a_refusal_in_the_protocol_s_own_field_is_one(
    configure: Configure, server: ChatServer
) -> None:
    _, body = completion(None)
    body["choices"][0]["message"]["refusal"] = "I will not look at that."
    server.answer = lambda asked: (200, body) if attribute_of(asked) == "dial" else in_json(asked)
    go(configure())
    rows = answers(configure())
    assert {(row["reason"], row["detail"]) for row in rows if row["attribute"] == "dial"} == {
        ("refused", "I will not look at that.")
    }


def test_a_policy_s_veto_is_a_refusal(configure: Configure, server: ChatServer) -> None:
    veto = {"message": "The prompt was filtered.", "code": "content_filter"}
    server.answer = lambda asked: (
        (400, {"error": veto}) if attribute_of(asked) == "dial" else in_json(asked)
    )
    go(configure(max_total_tokens=1_000_000))
    rows = answers(configure())
    reasons = {(row["attribute"] == "dial", row["reason"]) for row in rows}
    assert reasons == {(True, "refused"), (False, "ok")}


def test_a_reasoning_model_is_asked_with_the_options_that_it_knows(
    configure: Configure, server: ChatServer
) -> None:
    def picky(asked: Asked) -> tuple[int, Any]:
        for option in ("max_tokens", "temperature"):
            if option in asked.body:
                error = {"message": f"'{option}' is not supported", "param": option}
                return 400, {"error": error | {"code": "unsupported_parameter"}}
        assert asked.body["max_completion_tokens"] == 400
        assert "response_format" in asked.body
        return in_json(asked)

    server.answer = picky
    go(configure())
    assert {row["reason"] for row in answers(configure())} == {"ok"}
    assert len(server.asked) <= 12 + 2 * 3  # only the first ones had to learn


def test_a_model_that_answers_nothing_usable_is_no_seed(
    configure: Configure, shop: CatalogFiles, server: ChatServer
) -> None:
    server.answer = lambda asked: completion('{"reasoning": "so', "length")
    with pytest.raises(InputError, match=r"none of 12 replies can be used \(12 truncated\)"):
        go(configure())
    assert not (shop.directory / "seed").exists()


def test_json_in_a_block_of_code_is_read(configure: Configure, server: ChatServer) -> None:
    def fenced(asked: Asked) -> tuple[int, Any]:
        said = json.dumps({"reasoning": "so", "answer": VALUES[attribute_of(asked)]})
        return completion(f"```json\n{said}\n```", "unknown")

    server.answer = fenced
    go(configure())
    assert {row["reason"] for row in answers(configure())} == {"ok"}
