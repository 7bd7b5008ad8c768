"""What a token may do with a dataset, who else can read there, and making the dataset where it is missing.

Each refusal is one sentence with what to do. Nothing is guessed: only our own create tells that a dataset was
missing, as the Hub answers 404 for what exists and can't be seen by this token too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any

from sidecar.stores.base import Access, Denied, NotFound, Public
from sidecar.stores.hubcall import Answered, Call, again
from sidecar.stores.huberrors import SECRETS
from sidecar.stores.hubrepo import Place, Repo
from sidecar.stores.hubscope import wider

_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}")


@dataclass(frozen=True, slots=True)
class Who:
    """The token's owner, its own name, and its role (read, write, fineGrained or "" where it isn't told)."""

    user: str = ""
    token: str = ""
    role: str = ""
    wider: str | None = None

    @property
    def shown(self) -> str:
        return f"token {self.token!r} of {self.user}" if self.token else "HF_TOKEN"


def refuse_unsendable(place: Place) -> None:
    """Raise ``Denied`` for a name that no dataset can have, and for a token that can't stand in a header."""
    if not _ID.fullmatch(place.repo) or "--" in place.repo or ".." in place.repo:
        kind = place.repo.partition("/")[0]
        hint = f", without {kind!r} in OWNER/NAME" if kind in ("datasets", "models", "spaces") else ""
        raise Denied(f"{place.repo!r} is no dataset's name: SIDECAR_STORE wants hf://datasets/OWNER/NAME{hint}.")
    refuse_unsendable_token(place.token)


def refuse_unsendable_token(token: str | None) -> None:
    """Raise ``Denied`` for a token that can't stand in a header."""
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise Denied(f"HF_TOKEN holds a space or a character that no token has: paste it anew in {SECRETS}.")


def refuse_early(place: Place) -> None:
    """Raise ``Denied`` where no request is needed to see that nothing can be kept there."""
    refuse_unsendable(place)
    if not place.token:
        raise Denied(f"No token: add HF_TOKEN with write access to {place.repo} in {SECRETS}, then restart.")


def check(repo: Repo, create: bool, allow_public: bool, call: Call) -> Access:
    """See ``Store.check``. Raises ``Denied`` and ``NotFound``, or what ``hubcall`` raises."""
    who = _who(repo, call)
    created = False
    try:
        info = _info(repo, call)
    except Answered as answer:
        if answer.status not in (401, 403, 404):
            raise
        if not create:
            raise NotFound(
                f"{repo.id} is no dataset, or the {who.shown} can't see it: "
                "check SIDECAR_STORE, and what the token may read."
            ) from answer
        _create(repo, who)
        created = True
        info = _info(repo, call)
    public = not info.private
    if public and not allow_public:
        raise Public(
            f"{repo.id} is public: everybody could read your files. Make it private in its settings, "
            "encrypt (SIDECAR_AGE_RECIPIENT), or set SIDECAR_PUBLIC=allow."
        )
    writable, detail = may_write(repo, who, call)
    return Access(
        writable, exists=not created, created=created, public=public, now=_now(call), detail=detail, wider=who.wider
    )


def _who(repo: Repo, call: Call) -> Who:
    try:
        found: Mapping[str, Any] = again(repo.api.whoami, call)
    except Answered as answer:
        if answer.status == 401:
            raise
        # This address has a strict limit of its own, and what it tells is only said in messages.
        return Who()
    return who(found, repo.id)


def who(found: Mapping[str, Any], dataset: str) -> Who:
    """The answer of whoami, as seen by who wants to use ``dataset`` only."""
    token = (found.get("auth") or {}).get("accessToken") or {}
    user = str(found.get("name", ""))
    beyond = wider(token, user, dataset)
    return Who(user, str(token.get("displayName", "")), str(token.get("role", "")), beyond)


def _info(repo: Repo, call: Call) -> Any:
    return again(partial(repo.api.dataset_info, repo.id, expand=["private", "sha", "disabled"]), call)


def _create(repo: Repo, who: Who) -> None:
    """Make the dataset, private. Sent once: after an unclear answer a second one might meet our own: 409."""
    try:
        repo.api.create_repo(repo.id, repo_type="dataset", private=True)
    except Answered as answer:
        if answer.status == 409:
            raise Denied(
                f"{repo.id} exists, but the {who.shown} can't see it. Give that token access to it, "
                f"or put another HF_TOKEN in {SECRETS}, then restart."
            ) from answer
        if answer.status in (401, 403):
            owner = repo.id.partition("/")[0]
            raise Denied(
                f"{repo.id} is missing or not visible, and the {who.shown} may not create it "
                f"({answer.text}). "
                f"Put a token with write access to {owner} into HF_TOKEN in {SECRETS}, "
                "or create the dataset yourself."
            ) from answer
        raise


def may_write(repo: Repo, who: Who, call: Call) -> tuple[bool, str]:
    """Whether the token may commit to ``repo``, and what it is or what to do, in a phrase. Raises ``Answered``."""
    if who.role == "read":
        return False, f"the {who.shown} can only read; make one with the role write, put it into HF_TOKEN"
    try:
        again(partial(repo.api.auth_check, repo.id, repo_type="dataset", write=True), call)
    except Answered as answer:
        if answer.status not in (401, 403, 404):
            raise
        needed = "give it write access to this dataset's contents, or use one with the role write"
        return False, f"the {who.shown} may read {repo.id} but not write it ({answer.status}); {needed}"
    return True, f"{who.shown}, role {who.role or 'unknown'}"


def _now(call: Call) -> float | None:
    try:
        return parsedate_to_datetime(call.date or "").timestamp()
    except (ValueError, TypeError):
        return None
