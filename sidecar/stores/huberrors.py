"""What the Hub's failures mean, as a person should read them: one sentence, and what to do next."""

from __future__ import annotations

import re

from sidecar.stores.base import Conflict, Denied, NotFound, StoreError, Unavailable
from sidecar.stores.hubcall import Answered, Late, Lost, root
from sidecar.stores.hubrepo import Place

# No code tells a full account from a missing permission: both are 403 (402, 413 and 507 are seen too).
_QUOTA = re.compile(r"quota|storage|limit reached|exceed|payment|upgrade|billing|too large|no space", re.IGNORECASE)

SECRETS = "Settings > Secrets"


def explain(error: BaseException, doing: str, place: Place, *, posted: bool = False, hint: float = 3600) -> StoreError:
    """The store's error for whatever ended a call; ``doing`` completes "could not …".

    ``posted``: a commit was sent. ``hint`` caps Retry-After, in seconds.
    """
    if isinstance(error, StoreError):
        return error
    failure = root(error)
    if isinstance(failure, Answered):
        return _answered(failure, doing, place, posted, hint)
    if isinstance(failure, Late):
        return Unavailable(f"The Hub did not {doing} in time.", unclear=posted)
    if isinstance(failure, Lost):
        said = place.clean(str(failure))
        return Unavailable(f"The Hub is out of reach ({said}): could not {doing}.", unclear=posted and failure.sent)
    return _unforeseen(error, doing, place, posted)


def _answered(failure: Answered, doing: str, place: Place, posted: bool, hint: float) -> StoreError:
    status, said = failure.status, place.clean(failure.text)
    words = f": {said}" if said else ""
    match status:
        case 401 if place.token is None:
            return Denied(f"Hub answers 401, no token is set. Add HF_TOKEN in {SECRETS}, then restart.")
        case 401:
            return Denied(
                f"Hub answers 401{words}. The token has expired, was revoked or is misspelt. "
                f"Renew HF_TOKEN in {SECRETS}, then restart."
            )
        case 402 | 403 | 413 | 507 if status == 507 or _QUOTA.search(said):
            return Denied(
                f"The Hub has no room for more in {place.repo} ({status}{words}). "
                "Free some storage there or take a larger plan; nothing stored so far is lost."
            )
        case 403:
            return Denied(
                f"Hub answers 403, could not {doing} in {place.repo}{words}. "
                f"Give the token write access to it, or put another HF_TOKEN in {SECRETS}, then restart."
            )
        case 404:
            return _missing(failure, place)
        case 412:
            return Conflict(f"{place.repo} has moved on: somebody else committed to {place.branch}.")
        case 409:
            return Unavailable(f"{place.repo} is busy with another change{words}.")
        case 429:
            return Unavailable(
                f"Hub answers 429, too many requests or commits{words}.", _capped(failure.retry_after, hint)
            )
        case _ if status >= 500 or status in (408, 425):
            return Unavailable(
                f"Hub answers {status}, could not {doing}{words}.",
                _capped(failure.retry_after, hint),
                unclear=posted,
            )
        case _:
            return Denied(f"Hub answers {status}, could not {doing} in {place.repo}{words}.")


def _missing(failure: Answered, place: Place) -> StoreError:
    if failure.code == "EntryNotFound":
        return NotFound(f"A path is not in that revision of {place.repo}.")
    if failure.code == "RevisionNotFound":
        return NotFound(f"{place.repo} has no such branch or revision.")
    return NotFound(
        f"{place.repo} is no dataset at {place.endpoint}, or this token can't see it. "
        "Check SIDECAR_STORE and what HF_TOKEN may read."
    )


def _unforeseen(error: BaseException, doing: str, place: Place, posted: bool) -> StoreError:
    """What neither the Hub nor the network said: the client's own complaints, hf_xet's, this machine's."""
    kind = type(error).__name__
    said = place.clean(" ".join(str(error).split()))[:300]
    if isinstance(error, OSError) and error.errno is not None:
        return Unavailable(f"Could not {doing}: {error.strerror or said} ({error.filename or 'this machine'}).")
    if kind == "XetAuthenticationError" or re.search(r"\b(401|403)\b", said):
        return Denied(
            f"The Hub's storage does not let this token {doing} in {place.repo}: {said}. "
            f"Give it write access, or put another HF_TOKEN in {SECRETS}, then restart."
        )
    if isinstance(error, ValueError) and _QUOTA.search(said):
        return Denied(f"The Hub has no room for more in {place.repo}: {said}. Nothing stored so far is lost.")
    return Unavailable(f"Could not {doing}: {kind}: {said}", unclear=posted)


def _capped(seconds: float | None, hint: float) -> float | None:
    return None if seconds is None else min(seconds, hint)
