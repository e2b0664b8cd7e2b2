"""Which listings are suspected, cleared and refused, and when an actor has lost enough engines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.sampling.crash_tracker import CrashTracker

NAMES = [f"l{number}" for number in range(12)]


def start(suspects: CrashTracker, actor: str, node: str = "") -> str | None:
    """An engine that comes up."""
    said = suspects.start(actor, node)
    suspects.started(actor)
    return said


def test_a_call_that_ends_leaves_no_suspects() -> None:
    suspects = CrashTracker(8)
    assert suspects.start("one") is None
    suspects.begin("one", ["a", "b"])
    suspects.end("one", ["a", "b"])
    handling = suspects.begin("one", ["a", "b"])
    assert (handling.alone, handling.refused) == (frozenset(), frozenset())


def test_what_a_dead_actor_had_begun_is_asked_alone_by_whoever_gets_it() -> None:
    suspects = CrashTracker(8)
    suspects.start("one")
    suspects.begin("one", ["a", "b"])
    suspects.start("two")
    assert suspects.begin("one", ["b", "c"]).alone == {"b"}


def test_a_death_that_was_nobodys_alone_refuses_nobody() -> None:
    suspects = CrashTracker(8)
    for _ in range(3):
        suspects.start("one")
        assert suspects.begin("one", ["a", "b"]).refused == frozenset()


def test_a_suspect_that_was_cleared_is_not_blamed_for_the_next_death() -> None:
    suspects = CrashTracker(8)
    suspects.start("one")
    suspects.begin("one", ["a", "b"])
    suspects.start("one")
    suspects.begin("one", ["a", "b"])
    suspects.ask_alone("one", "a")
    suspects.answered_alone("one")
    suspects.start("one")
    assert suspects.begin("one", ["a", "b"]).refused == frozenset()


def test_an_actor_may_lose_so_many_engines_without_finishing_a_call() -> None:
    suspects = CrashTracker(2)
    said = [start(suspects, "one") for _ in range(4)]
    assert said[:3] == [None, None, None]
    assert said[3] is not None
    assert "3 engines died" in said[3]
    assert "max_engine_deaths=2" in said[3]


def fail(suspects: CrashTracker, actor: str) -> float | None:
    """One try; seconds to the next one."""
    assert suspects.start(actor) is None
    return suspects.start_failed(actor, "OSError")


def test_an_engine_that_never_starts_is_tried_again_while_another_works() -> None:
    suspects = CrashTracker(2, min_engines=2)
    for name in ("good", "bad"):
        suspects.start(name)
    suspects.started("good")
    waits = [suspects.start_failed("bad", "OSError"), *(fail(suspects, "bad") for _ in range(19))]
    assert waits[:4] == [1, 2, 4, 8]
    assert waits[-1] == 60
    assert suspects.failures() == (20, "OSError")
    suspects.start("good")  # it has died, and may come up again
    assert fail(suspects, "bad") is not None
    assert [suspects.start_failed("good", "no"), fail(suspects, "good")] == [1, 2]
    assert fail(suspects, "good") is None


def test_an_engine_that_is_slow_to_start_is_waited_for() -> None:
    suspects = CrashTracker(2, min_engines=2)
    suspects.start("slow")
    assert None not in [fail(suspects, "bad") for _ in range(20)]
    assert suspects.start_failed("slow", "no") is None


def test_a_stage_in_which_no_engine_starts_gives_up_once_all_have_failed() -> None:
    suspects = CrashTracker(8, min_engines=3)
    for name in "abc":
        suspects.start(name)
    assert suspects.start_failed("a", "no") is not None
    assert fail(suspects, "a") is not None
    assert suspects.start_failed("b", "no") is not None
    assert suspects.start_failed("c", "no") is None


@pytest.mark.parametrize("grows", [CrashTracker(8, may_grow=True), CrashTracker(8, min_engines=2)])
def test_a_stage_to_which_more_actors_may_come_tries_a_few_times(grows: CrashTracker) -> None:
    assert [fail(grows, "first"), fail(grows, "first"), fail(grows, "first")] == [1, 2, None]


def test_a_process_that_ends_while_its_engine_starts_is_no_death_of_an_engine() -> None:
    suspects = CrashTracker(0, min_engines=2)
    suspects.start("good")
    suspects.started("good")
    assert [suspects.start("bad") for _ in range(5)] == [None] * 5
    assert suspects.failures()[0] == 4
    lone = CrashTracker(0)
    assert [lone.start("bad") for _ in range(3)] == [None] * 3
    assert "its process ended" in str(lone.start("bad"))


def test_a_listing_that_takes_its_nodes_down_is_found() -> None:
    suspects = CrashTracker(8, is_alive=lambda node: False)
    refused: set[str] = set()
    for node in range(20):
        start(suspects, "one", f"node {node}")
        handling = suspects.begin("one", ["good", "deadly"])
        refused |= handling.refused
        for name in sorted(handling.alone, reverse=True):
            suspects.ask_alone("one", name)
            if name == "deadly":
                break
            suspects.answered_alone("one")
        else:
            if "deadly" in handling.refused:
                break
    assert refused == {"deadly"}
    assert node < 8


def test_a_node_that_is_lost_makes_no_suspects_and_counts_no_death() -> None:
    suspects = CrashTracker(0, is_alive={"old": False, "new": True, "newer": True}.get)
    for node in ("old", "new"):
        assert suspects.start("one", node) is None
        suspects.started("one")
        handling = suspects.begin("one", ["a", "b"])
        assert handling.alone == frozenset()
        suspects.ask_alone("one", "a")
    said = suspects.start("one", "newer")  # of a node that is still there
    assert "1 engines died" in str(said)
    handling = suspects.begin("one", ["a", "b"])
    assert (handling.alone, handling.refused) == ({"b"}, {"a"})


def test_a_finished_call_forgives_the_deaths_before_it() -> None:
    suspects = CrashTracker(1)
    start(suspects, "one")
    for _ in range(5):
        assert start(suspects, "one") is None, "the deaths before were not forgiven"
        suspects.begin("one", ["a"])
        suspects.end("one", ["a"])


@given(st.sets(st.sampled_from(NAMES), max_size=4), st.integers(1, 5))
def test_all_deadly_listings_are_found_and_no_other_is_refused(deadly: set[str], size: int) -> None:
    """An engine that dies of the deadly ones, asked in calls of any size, ends with them alone
    refused, after two deaths for each at most and one more for every call."""
    suspects, answered, refused, deaths = CrashTracker(1000), set(), set(), 0
    calls = [NAMES[first : first + size] for first in range(0, len(NAMES), size)]
    start(suspects, "one")
    for call in calls:
        while True:
            handling = suspects.begin("one", call)
            asked = [name for name in call if name not in handling.refused]
            together = [name for name in asked if name not in handling.alone]
            died = bool(deadly.intersection(together))
            for name in () if died else sorted(handling.alone):
                suspects.ask_alone("one", name)
                if name in deadly:
                    died = True
                    break
                suspects.answered_alone("one")
            if not died:
                break
            deaths += 1
            start(suspects, "one")
        suspects.end("one", call)
        answered.update(asked)
        refused |= handling.refused
    assert refused == deadly
    assert answered == set(NAMES) - deadly
    assert deaths <= 2 * len(deadly)
