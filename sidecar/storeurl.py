"""``SIDECAR_STORE``: which store a URL means, and what is wrong with one that means none."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import SplitResult, quote, unquote_to_bytes, urlsplit

from sidecar.masking import mask, shown

Kind = Literal["hf", "folder", "git", "postgres", "bucket"]

FORMS = (
    "hf://datasets/OWNER/NAME[@branch][/prefix], file:///absolute/folder, git+https://…, git+ssh://…, "
    "git+file:///…, postgresql://…, hf://buckets/OWNER/NAME"
)

# What the Hub accepts in a repo id (huggingface_hub/utils/_validators.py, REPO_ID_REGEX and its rules).
_REPO_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?")
# git-check-ref-format(1), as far as one can get it wrong by hand.
_BAD_BRANCH = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|^[./-]|[./]$|\.lock(?:/|$)|^@$")


@dataclass(frozen=True, slots=True)
class StoreSpec:
    """Where snapshots go, as read from a URL; opening it is another matter.

    ``url`` may be shown to people: passwords in it are masked. ``raw`` is the URL as given. ``repo`` is
    OWNER/NAME on the Hub (hf, bucket), ``branch`` None for the store's own default, ``prefix`` a relative
    path without slashes around it or "", ``path`` the folder of a folder store. ``persistent`` is False only
    for the embedded default under the state dir, which is gone when this machine is.
    """

    kind: Kind
    url: str
    repo: str | None = None
    branch: str | None = None
    prefix: str = ""
    path: str | None = None
    raw: str = field(default="", repr=False)
    persistent: bool = True


def embedded_store(state_dir: str) -> StoreSpec:
    """The folder store under the state dir: what is used where nothing else is known."""
    path = os.path.join(state_dir, "store")
    url = "file://" + quote(os.fsencode(path))
    return StoreSpec("folder", url, path=path, raw=url, persistent=False)


def space_store(space_id: str) -> StoreSpec:
    """The dataset beside a Space (``OWNER/NAME``) that is used where ``SIDECAR_STORE`` is unset."""
    url = f"hf://datasets/{space_id}-state"
    return StoreSpec("hf", url, repo=f"{space_id}-state", raw=url)


def is_repo_id(text: str) -> bool:
    """Is ``text`` an OWNER/NAME that the Hub accepts?"""
    owner, slash, name = text.partition("/")
    return bool(slash) and not _wrong_repo(owner, name)


def parse_store(raw: str) -> StoreSpec:
    """Read a store URL; ``ValueError``, with a message that shows no password, where it means no store."""
    scheme, separator, _ = raw.partition("://")
    if not separator:
        hint = f"; a folder is written file://{quote(os.fsencode(raw))}" if raw.startswith("/") else ""
        raise ValueError(f"no URL{hint}")
    if any(c.isspace() or ord(c) < 32 or ord(c) == 127 for c in raw):
        raise ValueError("holds a space or a control character (in a URL a space is written %20)")
    try:
        url = urlsplit(raw)
        url.port  # noqa: B018  a port that is no number is found out only when asked for
    except ValueError:
        raise ValueError(
            "host or port can't be read (in a user name or a password '/', '?', '#', '@' and ':' are written "
            "%2F, %3F, %23, %40 and %3A)"
        ) from None
    match scheme.lower():
        case "hf":
            return _hub(raw, url)
        case "file":
            return _folder(raw, url)
        case "git+https" | "git+ssh" | "git+file":
            return _git(raw, url)
        case "postgresql" | "postgres":
            return StoreSpec("postgres", mask(raw), raw=raw)
    raise ValueError(f"the scheme {mask(scheme)}:// is no store{_meant(raw, url)}")


def _meant(raw: str, url: SplitResult) -> str:
    """A hint for the likely slips: a page's address from the browser, a plain git URL."""
    host = url.hostname or ""
    parts = [part for part in url.path.split("/") if part]
    on_hub = url.scheme in ("http", "https") and host in ("huggingface.co", "hf.co")
    if on_hub and len(parts) >= 3 and parts[0] in ("datasets", "buckets"):
        return f"; for that page write hf://{'/'.join(parts[:3])}"
    if url.scheme in ("https", "ssh"):
        return f"; for a git repository write git+{url.scheme}://…"
    if url.scheme == "git":
        return "; for a git repository write git+https://… or git+ssh://…"
    return ""


def _hub(raw: str, url: SplitResult) -> StoreSpec:
    if url.query or url.fragment or url.username is not None:
        raise ValueError("an hf:// URL has no user, '?' or '#' part (the token goes into HF_TOKEN)")
    kind, parts = url.netloc, url.path.split("/")[1:]
    if kind not in ("datasets", "buckets"):
        meant = "/".join([kind, *parts[:1]]) if kind != "spaces" else "/".join(parts[:2])
        hint = f"; for a dataset write hf://datasets/{meant}" if is_repo_id(meant) else ""
        raise ValueError(f"behind hf:// stands {shown(kind)}, not datasets or buckets{hint}")
    if len(parts) < 2:
        raise ValueError(f"OWNER/NAME is missing behind hf://{kind}/")
    owner, (name, at, branch) = parts[0], parts[1].partition("@")
    wrong = _wrong_repo(owner, name)
    if wrong:
        raise ValueError(wrong)
    rest = parts[2:-1] if parts[-1] == "" else parts[2:]  # one trailing slash says nothing
    if kind == "buckets":
        if at or rest:
            raise ValueError("a bucket has no branch and no prefix: hf://buckets/OWNER/NAME")
        return StoreSpec("bucket", raw, repo=f"{owner}/{name}", raw=raw)
    branch = _unquote(branch)
    if at and (not branch or _BAD_BRANCH.search(branch)):
        raise ValueError(f"{shown(branch)} is no branch name (a '/' in it is written %2F)")
    prefix = [_unquote(part) for part in rest]
    if any(part in ("", ".", "..", ".git") or "/" in part for part in prefix):
        raise ValueError("the prefix has an empty, '.', '..' or '.git' segment")
    if prefix and prefix[0].startswith("."):
        raise ValueError("the prefix starts with '.'")
    return StoreSpec("hf", raw, repo=f"{owner}/{name}", branch=branch or None, prefix="/".join(prefix), raw=raw)


def _wrong_repo(owner: str, name: str) -> str | None:
    for word, part in (("owner", owner), ("name", name)):
        if not _REPO_PART.fullmatch(part) or "--" in part or ".." in part or part.endswith(".git"):
            return (
                f"{shown(part)} is no {word} on the Hub: letters, digits, '-', '_' and '.', at most 96, "
                "not '--' or '..', no '-' or '.' at either end"
            )
    return None


def _folder(raw: str, url: SplitResult) -> StoreSpec:
    if url.query or url.fragment:
        raise ValueError("a file:// URL has no '?' or '#' part (in a path they are written %3F and %23)")
    if url.netloc not in ("", "localhost"):
        raise ValueError("a folder is written with three slashes and its absolute path: file:///absolute/folder")
    path = _unquote(url.path)
    if ".." in path.split("/"):
        raise ValueError("the path has a '..' segment; write the folder that is meant")
    path = "/" + os.path.normpath(path).lstrip("/") if path else "/"
    if path == "/":
        raise ValueError("the whole file system is no folder for a store")
    return StoreSpec("folder", "file://" + quote(os.fsencode(path)), path=path, raw=raw)


def _git(raw: str, url: SplitResult) -> StoreSpec:
    local = url.scheme == "git+file"
    if local and url.netloc not in ("", "localhost"):
        raise ValueError("a local repository is written with three slashes: git+file:///absolute/path")
    if not local and not url.hostname:
        raise ValueError("the host is missing")
    if not url.path.strip("/"):
        raise ValueError("the repository's path is missing")
    return StoreSpec("git", mask(raw), raw=raw)


def _unquote(text: str) -> str:
    return os.fsdecode(unquote_to_bytes(text))
