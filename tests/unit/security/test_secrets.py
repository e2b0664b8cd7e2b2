"""What is taken for a secret, and that nothing of it is left in a text that is printed."""

import os
import re
import string
import subprocess
import sys
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raypipe.errors import ConfigError, StorageError
from raypipe.security.secrets import is_secret_name, redacted, secret_in, spellings

SECRET = st.text(string.ascii_letters + string.digits + "+/=-_.~%", min_size=8, max_size=60)
SCHEMES = ("s3", "gs", "http", "https", "abfss", "delta:s3", "lance:gs", "postgresql+psycopg")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No secrets of the machine on which the tests run."""
    for name in [name for name in os.environ if is_secret_name(name)]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    "name",
    [
        *("HF_TOKEN", "hf_token", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "OPENAI_API_KEY"),
        *("s3.access-key-id", "s3.session-token", "adls.account-key", "adls.connection-string"),
        *("adls.sas-token", "credential", "client-secret", "header.Authorization", "token", "key"),
        *("gcp.bigquery.credentials-info", "gcs.oauth2.token", "jdbc.password", "PGPASSWORD"),
        *("X-Amz-Signature", "X-Amz-Credential", "X-Amz-Security-Token", "sig", "AWSAccessKeyId"),
        *(
            "access_key",
            "secret_key",
            "apiKey",
            "sslKey",
            "DB_PASS",
            "basic_auth",
            "GITHUB_PAT_KEY",
        ),
    ],
)
def test_a_name_of_a_secret(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("max_num_batched_tokens", "long_prefill_token_threshold", "tokenizer", "max_tokens"),
        *("api_key_variable", "TOKENIZERS_PARALLELISM", "OMP_NUM_THREADS", "VLLM_USE_V1", "region"),
        *(
            "GOOGLE_APPLICATION_CREDENTIALS",
            "PWD",
            "OLDPWD",
            "AWS_SHARED_CREDENTIALS_FILE",
            "RAY_AUTH_TOKEN_PATH",
        ),
        *("eos_token", "image_token", "credential_kind", "s3.signer", "endpoint_override"),
        *("gcs.oauth2.token-expires-at", "RAY_AUTH_MODE", "s3.role-arn", "oauth2-server-uri"),
    ],
)
def test_a_name_of_something_else(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/prefix?endpoint_override=minio:9000&scheme=http&region=us-east-1",
        *("abfss://container@account.dfs.core.windows.net/listings", "hdfs://shop@host:8020/l"),
        *("delta:s3://bucket/table@12", "iceberg:shop.listings@7", "lance:/data/listings@3"),
        *("http://127.0.0.1:8000/v1", "http://[::1]:8000/v1", "/data/listings.parquet", "runs"),
        *("Qwen/Qwen2-VL-2B-Instruct@895c3a49bc3fa70a340399125c650a463535e71c", "embedded:nano"),
        *("sk-slovakia-catalog-2024-listings", "hf_listings", "16:9", "a@b.example", "C:\\x"),
    ],
)
def test_an_address_without_a_secret_is_left_as_it_is(text: str) -> None:
    assert secret_in(text) is None
    assert redacted(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "{{'Authorization': 'Bearer {}'}}",
        '{{"authorization": "Basic {}"}}',
        "authorization: token {}",
        "x-api-key: {}",
        "{{'api-key': '{}'}}",
        "Password: {}",
        "{{'password': b'{}'}}",
        "token='{}'",
        "url=https://host/place?sig={}",
        "s3://bucket/place?endpoint_override=https://host/?token={}",
        "cannot read 'uri=https://host/a?b=https://host/c?key={}'",
    ],
)
def test_a_secret_is_found_in_headers_and_in_addresses_within_addresses(text: str) -> None:
    secret = "c4n4ry.of/mine+0=="
    assert secret_in(text.format(secret))
    assert "c4n4ry" not in redacted(text.format(secret))
    assert "mine" not in redacted(text.format(secret))


def test_the_working_directory_is_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PWD", "OLDPWD"):
        monkeypatch.setenv(name, "/home/shop/catalog")
    assert (
        redacted("/home/shop/catalog/runs/local is no run")
        == "/home/shop/catalog/runs/local is no run"
    )


def test_a_public_bucket_needs_no_user() -> None:
    text = "gs://anonymous@public-bucket/listings"
    assert secret_in(text) is None
    assert redacted(text) == text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SECRET, st.sampled_from(SCHEMES))
def test_a_password_in_an_address_is_found_and_taken_out(secret: str, scheme: str) -> None:
    if re.match(r"\d{1,5}(/|$)", secret):
        return  # before a slash that is a port
    for text in (f"{scheme}://user:{secret}@host/place", f"cannot open '{scheme}://K:{secret}@h/'"):
        assert secret_in(text)
        assert secret not in redacted(text)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SECRET, st.sampled_from(("sig", "token", "X-Amz-Signature", "access_key", "secret%5Fkey")))
def test_a_secret_parameter_is_found_and_taken_out(secret: str, name: str) -> None:
    text = f"https://host/place?region=eu&{name}={quote(secret, safe='')}&scheme=http"
    assert secret_in(text)
    assert quote(secret, safe="") not in redacted(text)
    assert redacted(text).endswith("&scheme=http")


@pytest.mark.parametrize(
    "token",
    [
        *(f"hf_{'a1' * 17}", f"sk-{'b2' * 24}", f"sk-proj-{'c3' * 20}-x_y", f"AKIA{'D4' * 8}"),
        *(f"ghp_{'e5' * 18}", f"github_pat_{'f6' * 20}", f"xoxb-{'7' * 20}", "Bearer abcdefgh"),
        *(f"eyJ{'h8' * 8}.eyJ{'i9' * 8}.sign", "-----BEGIN RSA PRIVATE KEY-----"),
    ],
)
def test_a_token_of_a_known_form_is_found_anywhere(token: str) -> None:
    text = f"the value {token} is given"
    assert secret_in(text)
    assert token not in redacted(text)


def test_what_the_environment_holds_is_taken_out_in_every_spelling(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secret, password = "cana/ry+one=two", "proxy pass word"
    monkeypatch.setenv("SHOP_API_KEY", secret)
    monkeypatch.setenv("https_proxy", f"http://user:{quote(password)}@proxy:3128")
    text = " ".join([*spellings(secret), *spellings(password), "short"])
    assert redacted(text).replace("*", "").split() == ["short"]


def test_errors_of_ours_hold_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "environment-canary")
    for kind in (ConfigError, StorageError):
        error = kind("no s3://AK:hush@bucket (environment-canary): ?sig=hush")
        assert str(error) == "no s3://***@bucket (***): ?sig=***"


def test_a_traceback_of_a_job_holds_no_secret() -> None:
    program = (
        "import sys\nfrom unittest.mock import patch\nfrom raypipe.cli import jobs\n"
        "with patch('raypipe.config.load', side_effect=ValueError('s3://AK:' + 'hush@b')):\n"
        "    jobs.main('prepare', None, [])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "ValueError: s3://***@b" in done.stderr
    assert "hush@b" not in done.stderr.splitlines()[-1]
