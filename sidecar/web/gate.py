"""Who may ask for something: every refusal that needs no look at what is asked for."""

from __future__ import annotations

import math
import time

from starlette.requests import Request
from starlette.responses import Response

from sidecar.state import State
from sidecar.web import access
from sidecar.web.answers import error
from sidecar.web.guesses import Guesses, guesser

_BODY_MAX = 64 * 1024


class Gate:
    """Counts wrong tokens, and turns away who may not ask. ``upstream``: a front door passes visitors on."""

    def __init__(self, state: State, api_token: str | None, upstream: bool) -> None:
        self._state = state
        self._api_token = api_token
        self._upstream = upstream
        self._guesses = Guesses()

    def refused(self, request: Request) -> Response | None:
        who = access.caller(request.scope)
        guessed = self.guessed(who)
        if guessed is not None:
            return guessed
        refusal = access.refusal(who, self._api_token, self._upstream)
        if refusal is not None:
            ask = {"www-authenticate": 'Bearer realm="sidecar"'} if refusal.status == 401 else {}
            return error(refusal.status, refusal.code, refusal.detail, headers=ask)
        size = b"".join(who.values(b"content-length"))
        # No body is read. A large one is turned away; one that hides its size meets the server's limits.
        if size.isdigit() and int(size) > _BODY_MAX:
            return error(413, "body", "no body is needed", headers={"connection": "close"})
        # Reading is answered at once, however many ask; this may take minutes, and hold its place as long.
        if access.crowded(request.scope):
            what = "all connections are in use; try again in a moment, or over the Unix socket in the state dir"
            return error(503, "busy", what, headers={"retry-after": "5"})
        return None

    def guessed(self, who: access.Caller) -> Response | None:
        """429 for a caller that has sent too many wrong tokens, before this one is looked at."""
        if who.listener == access.UNIX or not who.values(b"authorization"):
            return None
        name, now = guesser(who), time.monotonic()
        wait = self._guesses.wait_s(name, now)
        if wait > 0:
            said = "too many wrong tokens; inside the container `sidecar status` and `sidecar checkpoint` need none"
            return error(429, "wrong-tokens", said, headers={"retry-after": str(math.ceil(wait))})
        if access.is_guess(who, self._api_token):
            self._state.measures.wrong_tokens += 1
            self._guesses.wrong(name, now)
        return None

    def for_owners(self, request: Request) -> Response | None:
        """What can't be undone is for our own commands and for who has the token, wherever it comes from."""
        if access.sees_names(access.caller(request.scope), self._api_token):
            return None
        what = (
            "this destroys what is kept: it is asked over the Unix socket in the state dir, or with SIDECAR_API_TOKEN"
        )
        return error(403, "not-yours", what)
