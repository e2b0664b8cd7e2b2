"""Why a row is refused: the reasons of the quarantine table and of images."""

from raypipe.errors import Reason

_MAX_DETAIL = 500


class QuarantineReason(Reason):
    """Why a listing or an answer is in quarantine."""


BAD_ID = QuarantineReason("bad_id", "its id is too long or has characters that ids may not have")
UNKNOWN_VERTICAL = QuarantineReason("unknown_vertical", "the attribute schema lacks its vertical")
NO_IMAGE = QuarantineReason("no_image", "none of its images can be used")
BROKEN_IMAGE = QuarantineReason(
    "broken_image", "an image cannot be used, and catalog.broken_images=refuse"
)
LEAKAGE = QuarantineReason("leakage", "it shares a group or an image with another split")
UNKNOWN_ATTRIBUTE = QuarantineReason("unknown_attribute", "its vertical has no such attribute")
UNKNOWN_VALUE = QuarantineReason("unknown_value", "the answer is none of the allowed values")
REPEATED_ATTRIBUTE = QuarantineReason("repeated_attribute", "the attribute is answered twice")
OVERRULED = QuarantineReason("overruled", "a review or a later file answers otherwise")
PROMPT_TOO_LONG = QuarantineReason("prompt_too_long", "the engine takes fewer prompt tokens")
ENGINE_CRASH = QuarantineReason("engine_crash", "the engine died with it, the last time alone")
ENGINE_ERROR = QuarantineReason("engine_error", "the engine answers its requests with an error")
ENDPOINT_ERROR = QuarantineReason("endpoint_error", "the endpoint answers with an error")


class ImageReason(Reason):
    """Why an image is left out."""


# Its content.
EMPTY = ImageReason("empty", "it has no bytes")
TOO_MANY_BYTES = ImageReason("too_many_bytes", "it is larger than images may be")
UNKNOWN_FORMAT = ImageReason("unknown_format", "it is of a format that is not read")
TOO_MANY_PIXELS = ImageReason("too_many_pixels", "it exceeds catalog.max_image_pixels")
TOO_COMPLEX = ImageReason("too_complex", "it would take minutes to decode")
BROKEN = ImageReason("broken", "it cannot be decoded")
DUPLICATE = ImageReason("duplicate", "it has the pixels of an earlier one")
# Its path.
BAD_PATH = ImageReason("bad_path", "no file can have this name")
OUTSIDE_ROOTS = ImageReason("outside_roots", "it is not below a directory that may be read")
MISSING_FILE = ImageReason("missing_file", "there is no such file")
UNREADABLE_FILE = ImageReason("unreadable_file", "the file cannot be read")
# Its URI, before any request and at each redirect.
BAD_URI = ImageReason("bad_uri", "its URI is not valid or holds credentials")
SCHEME_NOT_ALLOWED = ImageReason("scheme_not_allowed", "catalog.fetch.schemes lacks its scheme")
HOST_NOT_ALLOWED = ImageReason("host_not_allowed", "catalog.fetch.hosts lacks its host")
PRIVATE_ADDRESS = ImageReason("private_address", "its host is not on the public internet")
# Its server; the first three may pass on a later attempt.
SERVER_ERROR = ImageReason("server_error", "the server answers 429 or 5xx after all attempts")
UNREACHABLE = ImageReason("unreachable", "no connection, no answer, or too slow, in all attempts")
HOST_AWAY = ImageReason("host_away", "not requested: its host has not answered for a while")
NOT_FOUND = ImageReason("not_found", "the server answers 404 or 410")
REFUSED_BY_SERVER = ImageReason("refused_by_server", "the server answers with another 4xx")
TOO_MANY_REDIRECTS = ImageReason("too_many_redirects", "it is redirected too often")
# Its listing.
TOO_MANY_IMAGES = ImageReason("too_many_images", "its listing has more images than are tried")
TOO_SLOW = ImageReason("too_slow", "its listing's images took too long")


def quarantine_row(
    name: str, stage: str, reason: QuarantineReason, detail: str
) -> dict[str, object]:
    """A row of the quarantine table.

    Args:
        name: the listing's id, or "<listing_id>/<attribute>" of an answer.
        stage: the stage that refuses it.
    """
    return {"id": name, "stage": stage, "reason": reason, "detail": detail[:_MAX_DETAIL]}
