"""Typed, frozen, strict: what a wrong configuration says, and what stays out of fingerprints."""

from pathlib import Path
from typing import Any

import pytest

from raypipe.config import Config, flatten, key_names, load, resolve
from raypipe.errors import EXIT_CONFIG, ConfigError

# A key listed here says how fast or where a run goes and never what comes out of it. Adding one
# lets a committed artifact be reused after that key has changed: be sure.
RESOURCE_KEYS = frozenset(
    {
        "run.name",
        "run.directory",
        "run.report_to",
        "catalog.iceberg",
        "catalog.rows_per_file",
        "catalog.fetch.concurrency",
        "catalog.fetch.attempts",
        "catalog.fetch.timeout_s",
        "evals.api_key_variable",
        "evals.concurrency",
        "evals.max_attempts",
        "evals.timeout_s",
        "annotation.api_key_variable",
        "annotation.endpoint",
        "annotation.concurrency",
        "annotation.max_attempts",
        "annotation.timeout_s",
        "annotation.max_total_tokens",
        "annotation.max_cost",
        "model.allow_unpinned",
        "rates.million_prompt_tokens",
        "rates.million_answer_tokens",
        "labeling.num_reviews",
        "labeling.sink",
        "labeling.review_order",
        "rates.engine_hour",
        "rates.currency",
        "rates.chains_per_second",
        "rates.examples_per_second",
        "rates.trainer_hour",
        "sweep.seeds",
        "sweep.groups",
        "sweep.replicated",
        "sweep.thresholds",
        "sweep.pool_shares",
        "sweep.num_rounds",
        "sweep.label_smoothing",
        "sweep.backbones",
        "sweep.arms_at_once",
        "sampling.num_actors",
        "sampling.min_actors",
        "sampling.merged_cache_gib",
        "sampling.calls_in_flight",
        "sampling.max_engine_deaths",
        "sampling.cpus_per_actor",
        "sampling.gpus_per_actor",
        "sampling.listings_per_call",
        "sampling.engine",
        "sampling.engine_in_actor",
        "sampling.environment",
        "rounds.num_rounds",
        "cluster.num_cpus",
        "cluster.num_train_workers",
        "cluster.cpus_per_train_worker",
        "cluster.use_gpu",
        "cluster.min_train_workers",
        "cluster.micro_batch_size",
        "cluster.tokens_per_pack",
        "cluster.checkpoint_steps",
        "cluster.max_train_failures",
        "cluster.zero_stage",
        "cluster.gradient_checkpointing",
        "cluster.capacity_wait_s",
    }
)

PAPER = {
    "catalog.image_size": 224,
    "catalog.max_images": 5,
    "catalog.embedded.seed_per_vertical": 10,
    "lora.rank": 32,
    "lora.alpha": 32,
    "lora.targets": ("q_proj", "v_proj"),
    "sft.learning_rate": 3e-5,
    "sft.epochs": 3,
    "sft.batch_size": 16,
    "sampling.num_chains": 7,
    "sampling.temperature": 1.0,
    "sampling.top_p": 1.0,
    "sampling.max_tokens": 200,
    "consensus.threshold": 0.5,
    "training.method": "dpo",
    "training.learning_rate": 1e-5,
    "training.beta": 0.2,
    "training.label_smoothing": 0.0,
    "training.pair_weight": "uniform",
    "training.epochs": 1,
    "training.batch_size": 128,
    "training.warmup_share": 0.03,
    "training.max_grad_norm": 1.0,
    "training.reference": "start",
    "rounds.start": "sft",
    "model.answer_format": "reasoning",
}


def leaf_keys() -> set[str]:
    names = set(key_names(Config))
    return {name for name in names if not any(other.startswith(f"{name}.") for other in names)}


@pytest.mark.parametrize("key", sorted(PAPER))
def test_defaults_are_the_papers(key: str) -> None:
    assert flatten(Config().model_dump())[key] == PAPER[key]


def test_outcome_leaves_out_exactly_the_resource_keys() -> None:
    assert leaf_keys() - flatten(Config().outcome_keys()).keys() == RESOURCE_KEYS


def test_a_resource_key_does_not_change_the_outcome_and_any_other_does() -> None:
    before = load().outcome_keys()
    moved = load(None, ["sampling.num_actors=3", "run.directory=/mnt", "cluster.zero_stage=2"])
    assert moved.outcome_keys() == before
    assert load(None, ["consensus.threshold=0.6"]).outcome_keys() != before


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("training.learning_rate=1e-4", "training.learning_rate", 1e-4),
        ("training.learning_rate=1.0e-4", "training.learning_rate", 1e-4),
        ("sampling.num_chains=5", "sampling.num_chains", 5),
        ("cluster.use_gpu=true", "cluster.use_gpu", True),
        ("model.revision=null", "model.revision", None),
        ("lora.targets=[q_proj, k_proj]", "lora.targets", ("q_proj", "k_proj")),
        ("run.directory=s3://bucket/a=b", "run.directory", "s3://bucket/a=b"),
        ("sampling.engine.block_size=16", "sampling.engine.block_size", 16),
        ("sampling.engine={swap: 1e-1}", "sampling.engine.swap", "1e-1"),
        ('sampling.environment.THREADS="1"', "sampling.environment.THREADS", "1"),
    ],
)
def test_an_override_is_read_as_yaml(override: str, key: str, value: Any) -> None:
    assert flatten(load(None, [override]).model_dump())[key] == value


def test_precedence_is_default_then_file_then_override_then_later_override(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("training: {beta: 0.5, epochs: 4}\n")
    config = load(path, ["training.beta=0.7", "training.beta=0.9"])
    assert (config.training.beta, config.training.epochs) == (0.9, 4)
    assert config.training.batch_size == 128


def test_an_override_fills_a_section_that_the_file_left_empty(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("training:\n")
    assert load(path, ["training.beta=0.7"]).training.beta == 0.7


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("traning.beta=0.1", "training"),
        ("training.betta=0.1", "training.beta"),
        ("sampling.num_chain=3", "sampling.num_chains"),
        ("catalog.embedded.num_pol=3", "catalog.embedded.num_pool"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(override: str, nearest: str) -> None:
    key = override.split("=")[0].split(".")
    with pytest.raises(
        ConfigError, match=rf"unknown key '{key[0]}.*nearest known key is '{nearest}'"
    ):
        load(None, [override])


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("sampling.num_chains=many", "sampling.num_chains"),
        ("sampling.num_chains=0", "sampling.num_chains"),
        ("sampling.num_chains=2.5", "sampling.num_chains"),
        ("consensus.threshold=1", "consensus.threshold"),
        ("training.learning_rate=.nan", "training.learning_rate"),
        ("training.learning_rate=.inf", "training.learning_rate"),
        ("training.method=ppo", "training.method"),
        ("training.label_smoothing=0.5", "training.label_smoothing"),
        ("training.label_smoothing=-0.1", "training.label_smoothing"),
        ("training.pair_weight=votes", "training.pair_weight"),
        ("run.name=../elsewhere", "run.name"),
        ("run.name=Upper", "run.name"),
        ("rounds=3", "rounds"),
        ("catalog.image_size=225", "catalog.image_size"),
    ],
)
def test_a_wrong_value_names_its_key(override: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{key}: ") as raised:
        load(None, [override])
    assert raised.value.exit_code == EXIT_CONFIG


def test_every_fault_has_its_own_line() -> None:
    with pytest.raises(ConfigError) as raised:
        load(None, ["training.beta=-1", "training.bata=1", "lora.rank=0"])
    assert len(str(raised.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("override", "quoted"),
    [
        ("training.beta", "'training.beta'"),
        ("=3", "what is given="),
        ("", "what is given"),
        ("training.beta=[hush", "'training.beta'"),
        ("run.name.x=hush", "'run.name.x'"),
        ("hush", "what is given"),
    ],
)
def test_a_malformed_override_is_named_by_its_key_alone(override: str, quoted: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(None, [override])
    assert quoted in str(raised.value)
    assert "hush" not in str(raised.value)


def test_two_catalog_sources_or_none_are_refused() -> None:
    files = {"listings": "a", "attribute_schema": "b", "seed": "c", "truth": "d"}
    for catalog in ({**files, "embedded": {}}, {"embedded": None}, {}):
        with pytest.raises(
            ConfigError, match=r"exactly one of catalog\.embedded and catalog\.listings"
        ):
            resolve({"catalog": catalog})
    assert resolve({"catalog": files}).catalog.embedded is None


@pytest.mark.parametrize("missing", ["attribute_schema", "seed", "truth"])
def test_a_catalog_of_ones_own_needs_all_its_files(missing: str) -> None:
    files = {"listings": "a", "attribute_schema": "b", "seed": "c", "truth": "d"}
    del files[missing]
    with pytest.raises(ConfigError, match=f"catalog.{missing} is needed"):
        resolve({"catalog": files})


@pytest.mark.parametrize("section", ["sft", "training"])
def test_a_batch_that_the_workers_cannot_share_is_refused(section: str) -> None:
    values: dict[str, dict[str, Any]] = {section: {"batch_size": 10}}
    values["cluster"] = {"num_train_workers": 4}
    resolve(values)  # the shared-prefix step deals a batch out by tokens
    values.setdefault("training", {})["step"] = "stock"
    with pytest.raises(ConfigError, match=rf"{section}\.batch_size=10.*num_train_workers=4"):
        resolve(values)


SMOOTHED, WEIGHTED = "training.label_smoothing=0.1", "training.pair_weight=margin"


@pytest.mark.parametrize(
    ("overrides", "needs"),
    [
        ([SMOOTHED, "training.method=self_learning"], "training.method=dpo"),
        ([WEIGHTED, "training.method=self_learning"], "training.method=dpo"),
        ([WEIGHTED, "training.step=stock"], "training.step=shared_prefix"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(overrides: list[str], needs: str) -> None:
    option = overrides[0].partition("=")[0]
    with pytest.raises(ConfigError, match=rf"{option}.* needs? {needs}"):
        load(None, overrides)


def test_options_of_the_loss_are_taken_where_they_do_something_and_change_the_outcome() -> None:
    paper = load().training.outcome_keys()
    for overrides in ([SMOOTHED], [WEIGHTED], [SMOOTHED, WEIGHTED]):
        assert load(None, overrides).training.outcome_keys() != paper
    stock = [SMOOTHED, "training.step=stock"]
    assert load(None, stock).training.label_smoothing == 0.1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"training: [", "is not YAML"),
        (b"\xff\xfe\x00binary", "is not YAML"),
        (b"- a list", "expected sections, found a list"),
        (b"just text", "expected sections, found a str"),
        (b"training: 3", "training: "),
        (b"{1: 2}", "1: Keys should be strings"),
    ],
)
def test_a_bad_file_is_one_clear_error(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=says):
        load(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(ConfigError, match=f"cannot read {path}"):
            load(path)


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("# nothing\n")
    assert load(path) == Config()


def test_a_configuration_is_frozen_and_survives_json() -> None:
    config = load()
    with pytest.raises(ValueError, match="frozen"):
        config.training.beta = 0.5  # type: ignore[misc]
    assert resolve(config.model_dump(mode="json")) == config


def test_flatten_makes_one_level_of_dotted_keys() -> None:
    nested = {"a": {"b": {"c": 1}, "d": [2]}, "e": None, "empty": {}}
    assert flatten(nested) == {"a.b.c": 1, "a.d": [2], "e": None}
    assert flatten({"b": 1}, "a.") == {"a.b": 1}


def test_a_pool_never_begins_with_more_engines_than_it_may_have() -> None:
    assert load(None, ["sampling.min_actors=1", "sampling.num_actors=3"]).sampling.min_actors == 1
    with pytest.raises(ConfigError, match=r"sampling\.min_actors=3 is more than"):
        load(None, ["sampling.min_actors=3", "sampling.num_actors=2"])


def test_a_tensor_parallel_engine_needs_its_gpus_in_one_node() -> None:
    split = ["sampling.engine.tensor_parallel_size=2"]
    load(None, [*split, "sampling.gpus_per_actor=2"])
    with pytest.raises(ConfigError, match=r"tensor_parallel_size=2 needs as many GPUs"):
        load(None, [*split, "sampling.gpus_per_actor=1"])


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("engine.trust_remote_code=true", "trust_remote_code runs code"),
        ("engine.trust_remote_code=1", "trust_remote_code runs code"),
        ("engine.worker_cls=evil.Worker", "worker_cls names code"),
        ("engine.worker_extension_cls=evil.Worker", "worker_extension_cls names code"),
        ("engine.logits_processors=[evil.Processor]", "logits_processors names code"),
        ("engine.log_config_file=/tmp/log.json", "log_config_file names code"),
        ("engine.load_format=pt", "load_format is one of"),
        ("engine.load_format=auto", "load_format is one of"),
        ("engine.load_format=[pt]", "load_format is one of"),
        ("engine.tokenizer_mode=evil", "tokenizer_mode is one of"),
        ("engine.distributed_executor_backend=evil.Executor", "distributed_executor_backend is"),
        ("engine.kv_transfer_config={kv_connector: Evil}", "kv_transfer_config opens"),
        ("engine.allowed_local_media_path=/", "lets a prompt read files"),
        ("engine.model=evil/model", "model changes the model"),
        ('environment.VLLM_ALLOW_INSECURE_SERIALIZATION="1"', "run code from elsewhere"),
        ('environment.TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1"', "run code from elsewhere"),
    ],
)
def test_the_engine_is_told_no_code_no_pickles_and_no_other_model(setting: str, says: str) -> None:
    with pytest.raises(ConfigError, match=rf"sampling\.(engine|environment): .*{says}"):
        load(None, [f"sampling.{setting}"])


@pytest.mark.parametrize(
    "setting",
    [
        "trust_remote_code=false",
        "load_format=safetensors",
        "tensor_parallel_size=1",
        "max_model_len=4096",
        "distributed_executor_backend=mp",
        "kv_transfer_config=null",
    ],
)
def test_sizes_and_speed_are_the_engines(setting: str) -> None:
    assert load(None, [f"sampling.engine.{setting}"]).sampling.engine
