"""What a visitor gets instead of the app: it is being restored, it starts, it is gone. A page, or JSON for programs."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from html import escape
from typing import Any

from sidecar.state import State
from sidecar.web.accept import prefers_html
from sidecar.web.headers import values
from sidecar.web.status import PHASES

STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:32rem;margin:18vh auto 0;padding:0 1.25rem}
h1{font-size:1.35rem;margin:0 0 .5rem}p{margin:.4rem 0}progress{width:100%;height:1rem;margin:.75rem 0 0}
small{opacity:.75}a{color:inherit}
"""
# Asks what goes on, shows it, and loads the app once, when it is there. /_sidecar always means the sidecar.
SCRIPT = """
(function(){var bar=document.querySelector('progress'),said=document.getElementById('said'),
of=document.getElementById('of');
function mb(n){return (n/1e6).toFixed(n<1e7?1:0)+' MB'}
function show(s){if(s.main.state==='running'){said.textContent='The app is starting.';of.textContent='';
bar.removeAttribute('value');return}
said.textContent=s.detail;var r=s.restore;
if(r.bytes_total>0){bar.max=r.bytes_total;bar.value=r.bytes_done;
of.textContent=mb(r.bytes_done)+' of '+mb(r.bytes_total)}}
function look(){fetch('/_sidecar/readyz',{cache:'no-store'}).then(function(a){
if(a.ok){location.reload();return}
return fetch('/_sidecar/status',{cache:'no-store',headers:{accept:'application/json'}})
.then(function(b){return b.json()}).then(show).then(again)}).catch(again)}
function again(){setTimeout(look,1000)}
again()})()
"""


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


CSP = (
    f"default-src 'none'; style-src 'sha256-{_hash(STYLE)}'; script-src 'sha256-{_hash(SCRIPT)}'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self' https://huggingface.co"
)
RETRY_S = {"recovering": 5, "starting": 2, "gone": 5}
TITLES = {
    "recovering": "Waking up",
    "starting": "Almost there",
    "gone": "The app does not answer",
}
Answered = tuple[int, list[tuple[bytes, bytes]], bytes]


def answer(why: str, state: State, method: str, headers: Sequence[tuple[bytes, bytes]]) -> Answered:
    """Status, headers and body for a request that the app can't get: ``why`` is recovering, starting or gone."""
    status = 502 if why == "gone" else 503
    detail = _detail(why, state)
    if prefers_html(b",".join(values(headers, b"accept")).decode("latin-1")):
        kept, body = _headers("text/html; charset=utf-8", CSP), _page(why, state, method, detail).encode()
    else:
        restore = state.restore
        told: dict[str, Any] = {"phase": state.phase, "retry_after_s": RETRY_S[why]}
        if why == "recovering" and restore.bytes_total:
            told["restore"] = {"bytes_done": restore.bytes_done, "bytes_total": restore.bytes_total}
        kept, body = json_body(why, detail, **told)
    if status == 503:
        kept.append((b"retry-after", str(RETRY_S[why]).encode()))
    return status, _sized(kept, body), body


def refusal(status: int, code: str, detail: str) -> Answered:
    """The same for a request that is no request to an app."""
    kept, body = json_body(code, detail)
    return status, _sized(kept, body), body


def json_body(code: str, detail: str, **more: Any) -> tuple[list[tuple[bytes, bytes]], bytes]:
    text = json.dumps({"error": code, "detail": detail, **more}, separators=(",", ":"))
    return _headers("application/json", "default-src 'none'; frame-ancestors 'none'"), text.encode()


def _headers(kind: str, csp: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-type", kind.encode()),
        (b"cache-control", b"no-store"),
        (b"vary", b"Accept"),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"content-security-policy", csp.encode()),
    ]


def _sized(headers: list[tuple[bytes, bytes]], body: bytes) -> list[tuple[bytes, bytes]]:
    return [*headers, (b"content-length", str(len(body)).encode())]


def _detail(why: str, state: State) -> str:
    if why == "recovering":
        return PHASES[state.phase]
    if why == "starting":
        return "The app is starting."
    if state.main_state == "exited":
        return "The app has ended; its files are being saved."
    return "The app runs, but gave no answer. Its files are still kept."


def _page(why: str, state: State, method: str, detail: str) -> str:
    waits = method in ("GET", "HEAD") and why != "gone"
    # Without a script only: with one the page is loaded once, when there is something to see.
    head = f'<noscript><meta http-equiv="refresh" content="{RETRY_S[why]}"></noscript>' if waits else ""
    restore = state.restore
    bar, of = "", ""
    if why != "gone":
        known = why == "recovering" and restore.bytes_total
        at = f' max="{restore.bytes_total}" value="{restore.bytes_done}"' if known else ""
        bar = f'<progress aria-label="Progress"{at}></progress>'
        of = f"{restore.bytes_done / 1e6:.1f} MB of {restore.bytes_total / 1e6:.1f} MB" if at else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta name="robots" content="noindex">{head}<title>{escape(TITLES[why])}</title>'
        f"<style>{STYLE}</style></head><body><main><h1>{escape(TITLES[why])}</h1>"
        f'<p id="said" role="status">{escape(detail)}</p>{bar}<p id="of">{escape(of)}</p>'
        f"<p>{_next(why, waits, method)}</p></main>{f'<script>{SCRIPT}</script>' if waits else ''}</body></html>\n"
    )


def _next(why: str, waits: bool, method: str) -> str:
    """What a visitor may do: HTML."""
    if waits:
        return "<small>This page turns into the app by itself.</small>"
    if method in ("GET", "HEAD"):
        return '<a href="">Try again</a>'
    if why == "gone":
        return "Whether the app took what was sent just now can't be told: look before you send it again."
    return "What was sent just now did not reach the app: go back and send it again in a moment."
