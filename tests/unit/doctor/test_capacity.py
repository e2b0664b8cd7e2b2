"""What doctor says of the room for trainings and engines."""

from raypipe import config as configuration
from raypipe.doctor.capacity import check_capacity
from raypipe.runtime.capacity import Room

ONE_GPU = Room([{"CPU": 8.0, "GPU": 1.0}], {"CPU": 8.0, "GPU": 1.0})
GPUS = ("cluster.use_gpu=true", "sampling.gpus_per_actor=1")


def room_for(room: Room, *overrides: str, joins: bool = False) -> dict[str, str]:
    config = configuration.load(None, [*GPUS, *overrides])
    return {found.what: found.verdict for found in check_capacity(config, room, joins=joins)}


def test_workers_and_engines_that_have_no_room_are_told_by_name() -> None:
    four = ("cluster.num_train_workers=4", "sampling.num_actors=4")
    names = ("cluster.num_train_workers", "sampling.num_actors")
    assert room_for(ONE_GPU, *four) == dict.fromkeys(names, "fail")
    null = ("cluster.num_train_workers=null", "sampling.num_actors=null")
    assert room_for(ONE_GPU, *null) == dict.fromkeys(names, "ok")
    least = ("cluster.min_train_workers=1", "cluster.zero_stage=0", "sampling.min_actors=1")
    assert room_for(ONE_GPU, *four, *least) == dict.fromkeys(names, "ok")
    none = Room([{"CPU": 8.0}], {"CPU": 8.0})
    assert room_for(none, *null) == dict.fromkeys(names, "fail")


def test_a_cluster_that_grows_is_waited_for() -> None:
    four = ("cluster.num_train_workers=4", "sampling.num_actors=4")
    for most, verdict in (({"CPU": 32.0, "GPU": 4.0}, "warn"), ({"GPU": 2.0}, "fail")):
        grows = Room(ONE_GPU.nodes, ONE_GPU.free, most)
        assert set(room_for(grows, *four, joins=True).values()) == {verdict}
    # Where nobody knows what may come, nothing is wrong yet.
    assert set(room_for(ONE_GPU, *four, joins=True).values()) == {"warn"}
