"""What a secret looks like, and texts without any.

Secrets come in through the environment alone (the configuration refuses them). Where a library's
error repeats an address, a header or a key all the same, :func:`redacted` takes it out.
"""

import base64
import os
import re
import sys
import traceback
from collections.abc import Iterator
from types import TracebackType
from urllib.parse import quote, unquote

# Words in a name (of a parameter, a property, a variable) whose value is a secret.
_SECRET_NAME = re.compile(
    r"passw(or)?d|passphrase|secret|credential|authorization|connection[-_.]?string"
    r"|(api|access|account|private|sign(ing)?|subscription|encryption|master)[-_.]?key"
    r"|(^|[^a-z])(key|pass|pwd|auth|sig|sas|jwt|bearer|cookie)$|signature$|token$"
    r"|(?-i:[a-z](Key|Pass|Pwd|Auth|Sig)$)",
    re.IGNORECASE,
)
# Names that hold such a word and tell where something is, of what kind, or a token of a text.
_PLAIN_NAME = re.compile(
    r"[-_.](file|path|dir|kind|type|mode|variable|name|provider|arn|url|uri|expires[-_]at)$"
    r"|(^|[-_.])(bos|eos|pad|unk|sep|cls|mask|image|video|audio|stop|start|end)[-_]token$"
    r"|^(GOOGLE_APPLICATION_CREDENTIALS|section\.key|(OLD)?PWD)$",
    re.IGNORECASE,
)
# User and password, or a key and its secret, which may hold a '/'. A colon before digits is a port.
_USER = r"[^\s/?#@:'\"]*+:(?!\d{1,5}(?:[/\s'\"]|$))[^\s?#'\"]{0,4096}"
# Texts may be a stranger's: a pattern begins where a word does and gives nothing of it back, so
# that a long word is looked at once.
_ADDRESS = re.compile(
    rf"(?P<scheme>(?<![a-z0-9+.-])[a-z][a-z0-9+.-]*+:)?//(?P<user>{_USER}|[^\s/?#@:'\"]++)@",
    re.IGNORECASE,
)
# Where what stands before '@' is no credential but a container, or a user without a password.
_NAMED_PLACES = re.compile(r"(abfss?|wasbs?|hdfs|viewfs|ssh|git\+ssh):", re.IGNORECASE)
_BARE_USER = re.compile(r"(?<![\w/:])[^\s/:@'\"=,]+:[^\s@'\"]+@[\w\[]")
_TABLE = re.compile(r"^(delta|lance|iceberg|parquet):")
_PARAMETER = re.compile(
    r"(?<![\w.%-])(?:(?![A-Za-z])[\w.%-])*+(?P<name>[A-Za-z][\w.%-]*+)"
    r"(=[\"']?|[\"']\s*:\s*b?[\"'])(?=[^\s&;,'\"<>)\]}…*])"
)
_VALUE = re.compile(r"[^\s&;,'\"<>)\]}…*]+")
_HEADER = re.compile(
    r"\b((?:bearer|authorization[\"']?:\s*[\"']?\w+)\s+"
    r"|(?:[\w-]{0,40}(?:api|auth|access|subscription)[-_](?:key|token)|password|cookie)[\"']?\s*:\s*[\"']?)"
    r"[\w.~+/=-]{6,}",
    re.IGNORECASE,
)
# Tokens that are known by their form: Hugging Face, OpenAI, AWS, GitHub, GitLab, Slack, Google,
# signed JSON and private keys. They matter where neither a name nor an address says what it is.
_TOKEN = re.compile(
    r"\b(hf_[A-Za-z0-9]{16,}|sk-(proj-|ant-|svcacct-)?[A-Za-z0-9_]{20,}[\w-]*|(AKIA|ASIA)[A-Z0-9]{16}"
    r"|gh[oprsu]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[abprs]-[\w-]{10,}"
    r"|AIza[\w-]{30,}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*)|-----BEGIN [A-Z ]*PRIVATE KEY"
)
_SHORTEST = 8
_MASK = "***"


def is_secret_name(name: str) -> bool:
    """Whether what a parameter, a property or a variable of this name holds is a secret."""
    return _SECRET_NAME.search(name) is not None and _PLAIN_NAME.search(name) is None


def secret_in(text: str) -> str | None:
    """What in a text is a secret, in words that do not repeat it; None where nothing is."""
    for form in {text, unquote(text)}:
        if any(_is_credential(found) for found in _ADDRESS.finditer(form)):
            return "a user or password before '@'"
        if "//" not in form and _BARE_USER.search(_TABLE.sub("", form)):
            return "a user and password before '@'"
        names = (unquote(found["name"]) for found in _PARAMETER.finditer(form))
        name = next(filter(is_secret_name, names), None)
        if name is not None:
            return f"'{name}'"
        if _TOKEN.search(form) or _HEADER.search(form):
            return "a token or key"
    return None


def redacted(text: str) -> str:
    """A text that may be printed and written: secrets in it become ``***``, also those that the
    variables of this process hold."""
    for value in _of_environment():
        text = text.replace(value, _MASK)
    text = _ADDRESS.sub(
        lambda found: f"{found['scheme'] or ''}//{_MASK}@" if _is_credential(found) else found[0],
        text,
    )
    text = _HEADER.sub(rf"\1{_MASK}", text)
    return _TOKEN.sub(_MASK, _without_values(text))


def spellings(secret: str) -> Iterator[str]:
    """A secret as it is, as a part of an address, and in base64."""
    yield secret
    yield quote(secret, safe="")
    yield base64.b64encode(secret.encode()).decode().rstrip("=")


def print_exception(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """What ``sys.excepthook`` does, without secrets."""
    told = "".join(traceback.format_exception(kind, error, trace))
    print(redacted(told), end="", file=sys.stderr)  # noqa: T201


def _is_credential(found: "re.Match[str]") -> bool:
    if found["user"] == "anonymous":
        return False  # Arrow's word for a public bucket
    is_named = _NAMED_PLACES.fullmatch(found["scheme"] or "")
    return ":" in found["user"] or not is_named


def _without_values(text: str) -> str:
    """Without what secret parameters are; another's value may hold parameters of its own."""
    parts, kept = [], 0
    for found in _PARAMETER.finditer(text):
        is_inside = found.start() < kept
        if is_inside or not is_secret_name(unquote(found["name"])):
            continue
        value = _VALUE.match(text, found.end())
        if value is not None and value[0] != "null":
            parts += [text[kept : found.end()], _MASK]
            kept = value.end()
    return "".join((*parts, text[kept:]))


def _of_environment() -> list[str]:
    """The secrets among this process's variables, in every spelling, the longest first."""
    known: set[str] = set()
    for name, value in os.environ.items():
        if is_secret_name(name):
            known.add(value.strip())
        for found in filter(_is_credential, _ADDRESS.finditer(value)):  # proxies
            known |= {found["user"].rpartition(":")[2], unquote(found["user"].rpartition(":")[2])}
    long = {form for value in known if len(value) >= _SHORTEST for form in spellings(value)}
    return sorted(long, key=len, reverse=True)
