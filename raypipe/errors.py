"""Every error that raypipe raises on purpose.

    RaypipeError
    ├── ConfigError              exit 2   the configuration is wrong; nothing was started
    │   └── ConfigDriftError     exit 2   a committed artifact was made with other settings
    ├── InputError               exit 3   the catalog, the attribute schema or the seed is wrong
    │   ├── QuarantineLimitError exit 3   more rows were refused than the configured share
    │   └── SpendingLimitError   exit 3   the money or tokens set aside for an endpoint are used
    ├── ArtifactError            exit 3   a committed artifact is missing, corrupt or incomplete
    ├── AdapterInactiveError     exit 3   the engine does not serve the adapter it was given
    ├── MergeLossError           exit 3   merged weights keep too little of the adapter's effect
    ├── NonFiniteLossError       exit 3   training produced NaN or Inf
    ├── CollapseError            exit 3   a round's policy got surer without getting better
    ├── EngineStartError         exit 4   the engine or the cluster could not start; worth retrying
    ├── EngineDiedError          exit 4   engines died one after the other
    ├── EndpointError            exit 4   a server that answers for money is out of reach or broken
    └── StorageError             exit 4   a file cannot be written: disk full, storage out of reach
        └── SinkConflictError    exit 4   other writers change a sink's table again and again

A bad row is data, never one of these: it is refused with a :class:`Reason`.
"""

from typing import TYPE_CHECKING, ClassVar, Self

from raypipe.security.secrets import redacted
from raypipe.security.terminal import printable

if TYPE_CHECKING:
    from pydantic_core import CoreSchema

EXIT_CONFIG = 2
EXIT_INPUT = 3
EXIT_RETRY = 4
EXIT_UNREAD = 141
"""Nobody reads standard output any more (``| head``), as a shell says it of SIGPIPE."""
MAX_MESSAGE = 8192


class RaypipeError(Exception):
    """Base of the tree. Its message is printed to the user without a traceback, without the
    secrets that a library's error may have told it, and without what a stranger's text would have
    the terminal do. Its beginning is kept of one that names what a file has thousands of."""

    exit_code = EXIT_INPUT

    def __init__(self, message: str = "") -> None:
        told = printable(redacted(message[: 2 * MAX_MESSAGE]))
        super().__init__(told if len(told) <= MAX_MESSAGE else f"{told[:MAX_MESSAGE]}…")


class ConfigError(RaypipeError):
    exit_code = EXIT_CONFIG


class ConfigDriftError(ConfigError):
    """A committed artifact's fingerprint differs from what the configuration asks for."""


class InputError(RaypipeError):
    pass


class QuarantineLimitError(InputError):
    pass


class SpendingLimitError(InputError):
    """What was answered is kept; the message says how to go on."""


class ArtifactError(RaypipeError):
    pass


class AdapterInactiveError(RaypipeError):
    pass


class MergeLossError(RaypipeError):
    pass


class NonFiniteLossError(RaypipeError):
    pass


class CollapseError(RaypipeError):
    """A round's policy collapsed; the message holds the evidence."""


class EngineStartError(RaypipeError):
    exit_code = EXIT_RETRY


class EngineDiedError(RaypipeError):
    exit_code = EXIT_RETRY


class EndpointError(RaypipeError):
    exit_code = EXIT_RETRY


class StorageError(RaypipeError):
    exit_code = EXIT_RETRY


class StorageDeniedError(StorageError):
    """Another try would be refused too."""

    exit_code = EXIT_CONFIG


class SinkConflictError(StorageError):
    """Another writer was first; nothing was written."""


class Reason(str):
    """A code in a column or count, with its explanation in one line.

    Making one declares it: each subclass is a vocabulary, and ``declared`` holds all its codes in
    order. Funnel, metrics, pages and docs take theirs from there.
    """

    declared: ClassVar[dict[str, Self]]
    why: str

    def __init_subclass__(cls) -> None:
        cls.declared = {}

    def __new__(cls, code: str, why: str) -> Self:
        made = super().__new__(cls, code)
        made.why = why
        return cls.declared.setdefault(code, made)

    def __reduce__(self) -> tuple[type[Self], tuple[str, str]]:
        return type(self), (str(self), self.why)

    @classmethod
    def named(cls, code: str) -> Self:
        """The declared reason of a code. Raises ValueError when there is none."""
        if code not in cls.declared:
            raise ValueError(f"'{code}' is none of {', '.join(cls.declared)}")
        return cls.declared[code]

    @classmethod
    def explain(cls, code: str) -> str:
        """The explanation of a code; empty for one that this version does not declare."""
        return cls.declared[code].why if code in cls.declared else ""

    @classmethod
    def __get_pydantic_core_schema__(cls, *_: object) -> "CoreSchema":
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(cls.named, core_schema.str_schema())
