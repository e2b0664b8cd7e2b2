"""What it means when a storage fails: worth another try, refused for good, or no fault of its own.

Arrow, obstore and the readers of tables raise the same few classes for a bucket out of reach, a
right that is missing and a file that is corrupt, and tell them apart in words alone.
"""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from raypipe.errors import ConfigError, RaypipeError, StorageDeniedError, StorageError
from raypipe.secrets import secret_in

_STORES = re.compile(
    r"AWS Error|google::cloud::Status|Azure Error|Generic (?!LocalFileSystem)\w+ error"
    r"|lacked the necessary privileges|lacked valid authentication"
)
_REFUSED = re.compile(
    r"AWS Error (ACCESS_DENIED|INVALID_ACCESS_KEY_ID|INVALID_CLIENT_TOKEN_ID|INVALID_SIGNATURE"
    r"|SIGNATURE_DOES_NOT_MATCH|UNRECOGNIZED_CLIENT|MISSING_AUTHENTICATION_TOKEN|REQUEST_EXPIRED"
    r"|NO_SUCH_BUCKET)|HTTP status (301|400|401|403)"
    r"|Status\((PERMISSION_DENIED|UNAUTHENTICATED)|Azure Error: \[Auth"
    r"|lacked the necessary privileges|lacked valid authentication"
    r"|(400 Bad Request|401 Unauthorized|403 Forbidden)|AccessDenied|ExpiredToken"
    r"|Permission denied|Read-only file system"
)
_FAILING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOSPC, errno.EDQUOT}
_FORBIDDING = {errno.EACCES, errno.EPERM, errno.EROFS}
# By name, since most runs have neither package.
_CLIENTS = {
    "requests.ConnectionError",
    "requests.Timeout",
    "pyiceberg.ServerError",
    "pyiceberg.ServiceUnavailableError",
    "pyiceberg.TooManyRequestsError",
}
_REFUSALS = {
    "obstore.PermissionDeniedError",
    "obstore.UnauthenticatedError",
    "pyiceberg.AuthorizationExpiredError",
    "pyiceberg.ForbiddenError",
    "pyiceberg.OAuthError",
    "pyiceberg.UnauthorizedError",
}
_LONGEST = 300


def refuse_credentials(address: str) -> None:
    """Raises ConfigError, which does not repeat them, when an address holds credentials."""
    found = secret_in(address) if "://" in address else None
    if found is not None:
        raise ConfigError(
            f"an address holds {found}, and would be written down: credentials belong in "
            "environment variables (AWS_SECRET_ACCESS_KEY …) or in the role of the machine"
        )


def is_at_fault(error: BaseException) -> bool:
    """Whether a storage is to blame, be it away or forbidding, and not what was read from it."""
    return (
        names_a_store(str(error))
        or getattr(error, "errno", None) in _FAILING | _FORBIDDING
        or not _CLIENTS.union(_REFUSALS).isdisjoint(_kinds(error))
    )


def names_a_store(text: str) -> bool:
    """Whether a message is of an object store, as Arrow and obstore write them."""
    return _STORES.search(text) is not None


def failed(doing: str, error: BaseException) -> StorageError:
    """The error of ours for one of a storage's.

    Args:
        doing: what could not be done, such as "cannot read s3://…".

    Returns:
        StorageDeniedError when another try would be refused too: rights, credentials, or a place
        that is not there.
    """
    # A file may be missing; where one is made, it is its bucket.
    misplaced = isinstance(error, FileNotFoundError | NotADirectoryError | FileExistsError)
    refused = getattr(error, "errno", None) in _FORBIDDING or _REFUSED.search(str(error))
    if misplaced or refused or not _REFUSALS.isdisjoint(_kinds(error)):
        return StorageDeniedError(
            f"{doing}: {_said(error)}; look at the place itself, its rights and the credentials"
        )
    return StorageError(f"{doing}: {_said(error)}")


def unreadable(place: str, error: BaseException, corrupt: RaypipeError) -> RaypipeError:
    """What to raise of a file that cannot be read: ``corrupt``, unless its storage is at fault."""
    return failed(f"cannot read {place}", error) if is_at_fault(error) else corrupt


@contextmanager
def asked(doing: str) -> Iterator[None]:
    """Asks a file system in the body: its OSError becomes one of ours (see :func:`failed`)."""
    try:
        yield
    except OSError as error:
        raise failed(doing, error) from error


def _kinds(error: BaseException) -> set[str]:
    """Package and name of an error's classes."""
    return {f"{kind.__module__.split('.')[0]}.{kind.__name__}" for kind in type(error).__mro__}


def _said(error: BaseException) -> str:
    """The line in which a storage says what was wrong, without colours and pages of internals."""
    text = re.sub(r"\x1b\[\d*m|↳|, \S+\.rs:\d+.*", "", str(error).partition("\n\nDebug")[0])
    found = _STORES.search(text)
    if found is None:
        return (text.strip().splitlines() or [type(error).__name__])[0][:_LONGEST]
    return " ".join(text[text.rfind("\n", 0, found.start()) + 1 :].split())[:_LONGEST]
