"""The check ``hf-token``: does the Hub take the token, may it write the store, and for how long?"""

from __future__ import annotations

import time
from pathlib import Path

from sidecar.recovery.verdict import Verdict, when
from sidecar.settings import Settings
from sidecar.stores import hub, hubwho
from sidecar.stores.base import Denied, StoreError
from sidecar.stores.huberrors import SECRETS

SOON_S = 3 * 86400.0
"""A token that ends within this time is warned of."""


async def check(settings: Settings, limit_s: float) -> Verdict:
    """Ask the Hub. One that is out of reach says nothing about a token: that is a warning."""
    if not settings.token:
        return Verdict("fail", f"no token is set: add HF_TOKEN in {SECRETS}")
    dataset = settings.store.repo if settings.store.kind == "hf" else None
    endpoint, cache = settings.endpoint or hub.ENDPOINT, Path(settings.state_dir) / "hf"
    try:
        found = await hubwho.ask(settings.token, endpoint, dataset, cache, limit_s)
    except Denied as error:
        return Verdict("fail", error.message.rstrip("."))
    except StoreError as error:
        return Verdict("warn", f"can't be judged: {error.message.rstrip('.')}")
    return judge(found, time.time())


def judge(found: hubwho.Standing, now: float) -> Verdict:
    """``now`` in seconds since the epoch."""
    if found.writable is False:
        return Verdict("fail", found.detail)
    if found.expires is None:
        return Verdict("pass", found.detail)
    says = f"{found.detail}, expires {when(found.expires, now)}"
    if found.expires <= now:
        return Verdict("fail", f"{found.detail}, expired {when(found.expires, now)}: renew it in {SECRETS}")
    return Verdict("warn", f"{says}: renew it in {SECRETS}") if found.expires - now <= SOON_S else Verdict("pass", says)
