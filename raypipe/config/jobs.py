"""What the jobs beside the rounds do: labeling, evals, annotation, the sweep."""

import ipaddress
from typing import Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from raypipe.config.section import RESOURCE, UPSTREAM, Section, changes
from raypipe.config.sinks import parse_sink
from raypipe.errors import ConfigError

SweepGroup = Literal["claims", "table4", "table5", "table6", "rounds", "control", "option"]
SWEEP_GROUPS: tuple[SweepGroup, ...] = get_args(SweepGroup)
_OPENAI = {("https", "api.openai.com"), ("https", "api.openai.com:443")}


class LabelingConfig(Section):
    stages = ("labels",)
    policy: str = Field("best", json_schema_extra=UPSTREAM)
    """Whose labels: 'best' (what the run's rounds ended with), a policy of the run (pretrained,
    sft, round-1 …), or the directory of a PEFT adapter or of a whole checkpoint."""
    mode: Literal["vote", "greedy"] = "vote"
    """Vote on sampling.num_chains chains per query, or one greedy chain."""
    precision: float = Field(0.95, gt=0, le=1, json_schema_extra=changes("calibration"))
    """Share (0-1) of the published values that should be right, by the anchor split."""
    listings: str | None = Field(None, json_schema_extra=UPSTREAM)
    """Parquet file or directory, or table, of the catalog to label, in the form of
    catalog.listings; None labels the run's own listings. Of a table without @<snapshot> the newest
    is labeled."""
    num_reviews: int = Field(500, ge=0, json_schema_extra=RESOURCE)
    """Labels that jobs/review.py hands to people."""
    review_order: Literal["worst", "random"] = Field("worst", json_schema_extra=RESOURCE)
    """Which: contradicted sellers, then the least probable, which teach most; or any, drawn by
    run.seed, for an anchor or eval split that is to stand for the catalog."""
    constrained: bool = False
    """Let the engine write nothing but the answer format with an allowed value. It changes what
    is drawn, so training chains are never constrained."""
    check_image_files: bool = Field(True, json_schema_extra=UPSTREAM)
    """Look on every call at the size and time of all image files that the catalog names by path.
    Without, a listing whose image file has changed is labeled anew only when the file of the
    catalog that lists it has changed too. Addresses are never looked at."""
    relabel_versions: bool = Field(False, json_schema_extra=UPSTREAM)
    """Label everything again that was labeled before raypipe, vLLM, transformers or torch got the
    versions that are installed now. Otherwise such labels are kept, and cost nothing."""
    sink: str | None = Field(None, json_schema_extra=RESOURCE)
    """Table that the published labels are upserted into, a row per listing_id and attribute:
    delta:<path or uri>, lance:<path or uri> or iceberg:<namespace>.<table> (catalog.iceberg names
    its catalog); or a directory for them as Parquet files, parquet:<directory or uri>. None leaves
    the labels in the run."""

    @field_validator("sink")
    @classmethod
    def _a_sink(cls, sink: str | None) -> str | None:
        try:
            return None if sink is None else str(parse_sink(sink))
        except ConfigError as error:
            raise ValueError(str(error)) from None


class SweepConfig(Section):
    seeds: tuple[int, ...] = Field((0,), min_length=1, json_schema_extra=RESOURCE)
    """Every arm is run with the first; the groups in sweep.replicated with all of them."""
    groups: tuple[SweepGroup, ...] = Field(SWEEP_GROUPS, json_schema_extra=RESOURCE)
    """What is made: the arms of the main claims (DPO from both starts and with every part of the
    pool, self-learning from SFT), the paper's Tables 4, 5 and 6, several rounds, controls, and
    options beyond the paper."""
    replicated: tuple[SweepGroup, ...] = Field(("claims",), json_schema_extra=RESOURCE)
    """The groups that are repeated with every seed."""
    thresholds: tuple[float, ...] = Field((0.3, 0.5, 0.7, 0.8), json_schema_extra=RESOURCE)
    """Confidences that a query must exceed (paper, Table 5)."""
    pool_shares: tuple[float, ...] = Field(
        (0.2, 0.4, 0.6, 0.8, 1.0), min_length=1, json_schema_extra=RESOURCE
    )
    """Parts (0-1) of the pool that DPO and self-learning see (paper, Table 6: five steps)."""
    num_rounds: int = Field(2, ge=1, json_schema_extra=RESOURCE)
    """Rounds of DPO and of self-learning from SFT."""
    label_smoothing: float = Field(0.1, gt=0, lt=0.5, json_schema_extra=RESOURCE)
    """Of the arm that tries training.label_smoothing."""
    backbones: tuple[str, ...] = Field((), json_schema_extra=RESOURCE)
    """Further base models, of which the pretrained and the SFT policy are measured (paper, Table
    4): a directory, or a Hugging Face model with its commit, as id@commit."""
    arms_at_once: int = Field(1, ge=1, json_schema_extra=RESOURCE)
    """Independent arms that run side by side, where the cluster has room."""

    @model_validator(mode="after")
    def _shares(self) -> "SweepConfig":
        if not all(0 < share <= 1 for share in self.pool_shares):
            raise ValueError("sweep.pool_shares are parts of the pool, above 0 and at most 1")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("sweep.seeds names a seed twice")
        return self


class EndpointConfig(Section):
    endpoint: str | None = None
    """Base URL of an OpenAI-compatible server, such as https://api.openai.com/v1; None asks no
    server."""
    endpoint_model: str | None = None
    """Model that the endpoint is asked for; None without an endpoint."""
    api_key_variable: str | None = Field(
        None, pattern=r"^[A-Z_][A-Z0-9_]{0,63}$", json_schema_extra=RESOURCE
    )
    """Environment variable (capitals) that holds the endpoint's key, which is written nowhere. None
    is OPENAI_API_KEY at https://api.openai.com, and no key anywhere else."""
    concurrency: int = Field(16, ge=1, json_schema_extra=RESOURCE)
    """Requests under way at the endpoint at once."""
    max_attempts: int = Field(5, ge=1, json_schema_extra=RESOURCE)
    """Tries of a request whose server is busy, broken or out of reach (429, 5xx, time-outs)."""
    timeout_s: float = Field(120, gt=0, json_schema_extra=RESOURCE)
    """How long an answer may take, in seconds."""

    @model_validator(mode="after")
    def _whole_address(self) -> Self:
        if (self.endpoint is None) != (self.endpoint_model is None):
            raise ValueError("endpoint and endpoint_model need each other")
        parts = urlsplit(self.endpoint or "")
        if self.key_variable is not None and parts.scheme == "http" and not self.is_on_loopback:
            raise ValueError(
                f"the key in {self.key_variable} would go to {parts.hostname} unencrypted: name an "
                "https address, or set api_key_variable=null for a server without a key"
            )
        return self

    @property
    def key_variable(self) -> str | None:
        """The variable whose key the endpoint gets; None where it gets no key."""
        parts = urlsplit(self.endpoint or "")
        is_openai = (parts.scheme, parts.netloc.lower()) in _OPENAI
        return self.api_key_variable or ("OPENAI_API_KEY" if is_openai else None)

    @property
    def is_on_loopback(self) -> bool:
        """Whether the endpoint is a server of this machine."""
        host = urlsplit(self.endpoint or "").hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    @field_validator("endpoint")
    @classmethod
    def _plain_url(cls, endpoint: str | None) -> str | None:
        if endpoint is None:
            return None
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("an endpoint reads https://host/v1")
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError("keys and passwords belong in an environment variable, not in a URL")
        return endpoint.rstrip("/")


class EvalConfig(EndpointConfig):
    stages = ("endpoint",)
    policy: str | None = Field(None, json_schema_extra=UPSTREAM)
    """Whose answers are judged: 'best', a policy of the run, the directory of a PEFT adapter or of
    a whole checkpoint. None is 'best', unless an endpoint is judged."""
    listings: str | None = Field(None, json_schema_extra=UPSTREAM)
    """Parquet or table of labeled listings in the form of catalog.listings, of which those with a
    truth are asked; None asks the run's own eval and anchor listings."""
    truth: str | None = Field(None, json_schema_extra=UPSTREAM)
    """Parquet or table of their values in the form of catalog.truth; None with evals.listings
    alone."""

    @model_validator(mode="after")
    def _one_answerer(self) -> Self:
        if self.endpoint is not None and self.policy is not None:
            raise ValueError("set one of evals.policy and evals.endpoint")
        if (self.listings is None) != (self.truth is None):
            raise ValueError("listings and truth need each other")
        return self


class AnnotationConfig(EndpointConfig):
    stages = ("annotation",)
    endpoint: str | None = Field(None, json_schema_extra=RESOURCE)
    """Base URL of an OpenAI-compatible server, such as https://api.openai.com/v1; the same model
    behind another address gives the same replies. None asks no server."""
    choose: Literal["random", "disagreement", "diversity"] = Field(
        "random", json_schema_extra=UPSTREAM
    )
    """Which listings are annotated: any (the paper), those on whose queries the chains of the run's
    newest vote disagree most, or those whose images are most unlike one another."""
    listings_per_vertical: int = Field(10, ge=1, json_schema_extra=UPSTREAM)
    """Listings of each vertical (paper §2: ten)."""
    candidates_per_vertical: int = Field(200, ge=1, json_schema_extra=UPSTREAM)
    """Listings of each vertical, drawn at random, that choose=diversity looks at."""
    image_size: int = Field(512, ge=28, json_schema_extra=UPSTREAM)
    """Side in pixels that images are squashed to for the endpoint, which may see more than the
    model does."""
    structured: Literal["auto", "never"] = "auto"
    """Ask for JSON by a schema that names the allowed values, where the server knows how; 'never'
    asks in the words of the training prompt alone."""
    max_tokens: int = Field(400, ge=1, json_schema_extra=UPSTREAM)
    """Limit of an answer in tokens."""
    max_total_tokens: int | None = Field(None, ge=1, json_schema_extra=RESOURCE)
    """No further query is asked once all prompts and answers of the run have taken as many tokens;
    None asks all."""
    max_cost: float | None = Field(None, gt=0, json_schema_extra=RESOURCE)
    """No further query is asked once the run has spent this much, in rates.currency by
    rates.million_prompt_tokens and rates.million_answer_tokens; None asks all."""
