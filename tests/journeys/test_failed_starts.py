"""The test that matters most: a store that fails while we start never loses what it holds.

Each case lays a good history into a dataset of its own, lets the store fail in one way, and starts a Space on an empty
disk. Whatever it does then, no commit on the main line may lack the earlier files; every commit is looked at.
The starts run side by side (see ``running``); a test only asks for the outcome of its own.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.hub.identity import DEFAULT_TOKEN
from tests.hub.server import LocalHub
from tests.journeys import past
from tests.journeys.past import LEASE, MANIFEST, Past
from tests.journeys.space import Space, living, tree

TIMEOUT_S = 3.0
MAIN = "touch ran; mkdir -p disk/data; echo new > disk/data/new.txt; exec sleep 1000"
AT_ONCE = 6
STAGING = "/.sidecar-tmp-"


@dataclass(frozen=True)
class Lab:
    """One Hub with many datasets, and what each of them held before it failed."""

    hub: LocalHub
    past: Past
    folder: Path  # the same history in a folder store
    folder_earlier: Mapping[str, tuple[object, ...]]
    tmp: Path


Deed = Callable[[Lab, str], None]
"""Something done to a dataset."""


@dataclass(frozen=True)
class Fault:
    """``break_`` makes the dataset fail, ``mend`` heals it; ``says`` is in the error line of a start that gave up."""

    name: str
    says: tuple[str, ...]
    break_: Deed
    mend: Deed
    code: int = 75
    token: str = ""  # the start's own, where it isn't the owner's
    bare: bool = False  # no history of ours


def rule(action: str, path: str = "", **fields: Any) -> tuple[Deed, Deed]:
    """A fault of the Hub's for all requests that name the dataset (and ``path``)."""
    rules: dict[str, int] = {}

    def break_(lab: Lab, repo: str) -> None:
        rules[repo] = lab.hub.fault(action, path=f"{repo}[./?]?.*{path}", times=None, **fields)

    def mend(lab: Lab, repo: str) -> None:
        lab.hub.clear_faults(rules[repo])

    return break_, mend


def edit(change: Callable[[Lab, str], tuple[dict[str, bytes], list[str]]]) -> tuple[Deed, Deed]:
    """Damage at rest: somebody's commit, taken back by another one."""

    def break_(lab: Lab, repo: str) -> None:
        put, delete = change(lab, repo)
        lab.hub.edit(repo, put, delete)

    def mend(lab: Lab, repo: str) -> None:
        good = next(c["sha"] for c in lab.hub.commits(repo) if c["title"].startswith(past.SNAPSHOT))
        put, delete = change(lab, repo)
        lab.hub.edit(repo, {path: lab.hub.read(repo, path, good) for path in (*put, *delete)})

    return break_, mend


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


def good(lab: Lab, repo: str, path: str) -> bytes:
    """A file as the newest snapshot has it."""
    sha = next(c["sha"] for c in lab.hub.commits(repo) if c["title"].startswith(past.SNAPSHOT))
    return lab.hub.read(repo, path, sha)


def bundles(lab: Lab, repo: str) -> list[str]:
    sha = next(c["sha"] for c in lab.hub.commits(repo) if c["title"].startswith(past.SNAPSHOT))
    return [p for p in lab.hub.entries(repo, sha) if p.startswith(".sidecar/bundles/")]


def other_format(lab: Lab, repo: str) -> bytes:
    return json.dumps({**json.loads(good(lab, repo, MANIFEST)), "format": 99}).encode()


def others_lease(lab: Lab, repo: str) -> bytes:
    return json.dumps({**json.loads(good(lab, repo, LEASE)), "space": "bob/other", "instance": "bobs"}).encode()


def revoke(lab: Lab, repo: str) -> None:
    lab.hub.add_token(f"hf_{repo[6:]}", "alice")
    lab.hub.revoke_token(f"hf_{repo[6:]}")


def renew(lab: Lab, repo: str) -> None:
    lab.hub.add_token(f"hf_{repo[6:]}", "alice")


def deny(lab: Lab, repo: str) -> None:
    scopes = [("dataset", "alice/quite-another", ["repo.write"])]
    lab.hub.add_token(f"hf_{repo[6:]}", "alice", "fineGrained", scopes=scopes)


def void(_: object) -> None:
    return None


HIDDEN: dict[str, Any] = {
    "status": 404,
    "headers": {"X-Error-Code": "RepoNotFound"},
    "body": '{"error":"Repository not found"}',
}

FAULTS = (
    Fault("hang", ("no answer|in time",), *rule("hang")),
    Fault("revoked", ("401", "HF_TOKEN"), revoke, renew, code=69, token="own"),
    Fault("not-visible", ("token",), deny, renew, code=69, token="own"),
    # Only our own create tells that it exists: 409.
    Fault("hidden", ("exists", "can't see"), *rule("status", **HIDDEN), code=69),
    Fault("500", ("500",), *rule("status", status=500)),
    Fault("503", ("503",), *rule("status", status=503)),
    Fault("429", ("429",), *rule("status", status=429, headers={"Retry-After": "2"})),
    Fault("cut", ("out of reach",), *rule("cut_request", after=0)),
    Fault("manifest-cut", ("out of reach|ended early",), *rule("cut_response", "manifest.json", after=20)),
    Fault("manifest-flipped", ("damaged", "look at the store"), *rule("corrupt", "manifest.json")),
    Fault(
        "manifest-flipped-at-rest",
        ("damaged", "SIDECAR_REVISION=1.[23]"),
        *edit(lambda lab, repo: ({MANIFEST: flip(good(lab, repo, MANIFEST))}, [])),
    ),
    Fault(
        "file-truncated",
        ("damaged", "b.bin", "SIDECAR_REVISION=1.[23]"),
        *edit(lambda lab, repo: ({"data/deep/b.bin": good(lab, repo, "data/deep/b.bin")[:100]}, [])),
    ),
    Fault(
        "file-missing",
        ("damaged", "b.bin", "SIDECAR_REVISION=1.[23]"),
        *edit(lambda lab, repo: ({}, ["data/deep/b.bin"])),
    ),
    Fault(
        "file-flipped-at-rest",
        ("damaged", "b.bin", "SIDECAR_REVISION=1.[23]"),
        *edit(lambda lab, repo: ({"data/deep/b.bin": flip(good(lab, repo, "data/deep/b.bin"))}, [])),
    ),
    Fault("bundle-missing", ("damaged", r"\.gitignore"), *edit(lambda lab, repo: ({}, bundles(lab, repo)))),
    Fault("format", ("99", "[Uu]pdate"), *edit(lambda lab, repo: ({MANIFEST: other_format(lab, repo)}, []))),
    Fault("no-manifest", ("no manifest", "SIDECAR_REVISION=1.[23]"), *edit(lambda lab, repo: ({}, [MANIFEST]))),
    Fault(
        "foreign",
        ("data/theirs.txt", "prefix"),
        lambda lab, repo: void(lab.hub.edit(repo, {"data/theirs.txt": b"theirs"})),
        lambda lab, repo: void(lab.hub.edit(repo, {}, ["data/theirs.txt"])),
        bare=True,
    ),
    Fault(
        "other-identity",
        ("bob/other", "SIDECAR_ADOPT"),
        *edit(lambda lab, repo: ({LEASE: others_lease(lab, repo)}, [])),
        code=69,
    ),
    Fault(
        "public",
        ("public", "SIDECAR_PUBLIC"),
        lambda lab, repo: lab.hub.set_private(repo, False),
        lambda lab, repo: lab.hub.set_private(repo, True),
        code=69,
    ),
)
CASES = [(fault, how) for fault in FAULTS for how in ("exit", "wait", "continue")]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    tmp = tmp_path_factory.mktemp("lab")
    with LocalHub(tmp / "hub", process=True) as hub:
        template = past.on_hub(hub, tmp / "template")
        folder = tmp / "folder"
        earlier, _ = past.in_folder(tmp / "folder-template", folder)
        yield Lab(hub, template, folder, earlier, tmp)


@pytest.fixture(scope="module")
def running(lab: Lab, request: pytest.FixtureRequest) -> Iterator[dict[tuple[str, str], Future[None]]]:
    """Every selected case, under way."""
    ids = {item.name.partition("[")[2] for item in request.session.items if isinstance(item, pytest.Function)}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {
            (fault.name, how): pool.submit(DOES[how], lab, fault)
            for fault, how in CASES
            if f"{fault.name}-{how}]" in ids
        }
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize(("fault", "how"), [pytest.param(f, h, id=f"{f.name}-{h}") for f, h in CASES])
def test_a_store_that_fails_at_start_loses_nothing(
    fault: Fault, how: str, running: dict[tuple[str, str], Future[None]]
) -> None:
    running[fault.name, how].result()


def prepare(lab: Lab, fault: Fault, how: str) -> tuple[str, Space, Mapping[str, tuple[object, ...]]]:
    """The dataset with its past, broken, and a Space that is yet to start; and what must never be lost."""
    repo = f"alice/{fault.name}-{how}"
    if fault.bare:
        lab.hub.create_repo(repo)
    else:
        lab.past.lay(lab.hub, repo)
    fault.break_(lab, repo)
    token = f"hf_{repo[6:]}" if fault.token else DEFAULT_TOKEN
    settings = {"SIDECAR_RESTORE_TIMEOUT": f"{TIMEOUT_S:g}s", "SIDECAR_ON_RESTORE_FAILURE": how}
    space = past.hub_space(lab.hub, lab.tmp / f"{fault.name}-{how}", repo, token, **settings)
    return repo, space, {} if fault.bare else lab.past.earlier


def gives_up(lab: Lab, fault: Fault) -> None:
    """``exit``: in time, with its code, in words, and without having touched the store or started main."""
    repo, space, earlier = prepare(lab, fault, "exit")
    with living(space), past.watched(lab.hub, repo, earlier):
        began = time.monotonic()
        process = space.start("sh", "-c", MAIN)
        code = process.wait(TIMEOUT_S + 30)
        took = time.monotonic() - began
        require_given_up(space, fault, code)
        assert took < TIMEOUT_S + 10, f"{took:.1f} s\n{space.said()}"
        assert lab.hub.branches(repo).keys() == {"main"}


def require_given_up(space: Space, fault: Fault, code: int) -> None:
    said = space.said()
    assert code == fault.code, said
    assert not (space.home / "ran").exists(), said
    line = next((x for x in said.splitlines() if "ERROR recovery failed" in x), "")
    for words in fault.says:
        assert re.search(words, line), f"{words!r} is not in {line!r}\n{said}"
    assert "othing was" in line, line
    assert "Traceback" not in said
    # What was verified is kept for the next attempt, in our own folders only.
    assert [p for p, facts in tree(space.disk).items() if facts[0] != "dir" and STAGING not in p] == []


def waits(lab: Lab, fault: Fault) -> None:
    """``wait``: health fails, main isn't started; once the store is mended the start goes on by itself."""
    repo, space, earlier = prepare(lab, fault, "wait")
    with living(space), past.watched(lab.hub, repo, earlier):
        space.start("sh", "-c", MAIN)
        space.wait(lambda s: "recovery-failed" in s["notes"])
        health = space.get("/health")
        assert health["status"] == "fail"
        assert "recovery-failed" in health["notes"]
        assert not (space.home / "ran").exists()
        assert lab.hub.branches(repo).keys() == {"main"}
        commits = len(lab.hub.commits(repo))
        fault.mend(lab, repo)
        space.running(70)
        space.wait(lambda s: (space.disk / "data/new.txt").exists())
        space.checkpoint()
        require_restored(space, earlier)
        assert len(lab.hub.commits(repo)) <= commits + 4, [c["title"] for c in lab.hub.commits(repo)]
        assert space.end() == 143, space.said()
        assert "Traceback" not in space.said()
        newest = past.manifest_of(lab.hub, repo, "main")
        assert {e["path"] for e in newest["entries"]} >= {*earlier, "data/new.txt"}


def require_restored(space: Space, earlier: Mapping[str, tuple[object, ...]]) -> None:
    now = dict(tree(space.disk))
    assert {path: now.get(path) for path in earlier if path != "data"} == {
        path: facts for path, facts in earlier.items() if path != "data"
    }


def goes_on(lab: Lab, fault: Fault) -> None:
    """``continue``: main runs; what it writes lands on a branch of its own, once the store is back.

    Not after a refusal (69): that is final but with ``wait``.
    """
    repo, space, earlier = prepare(lab, fault, "continue")
    with living(space), past.watched(lab.hub, repo, earlier):
        process = space.start("sh", "-c", MAIN)
        if fault.code == 69:
            require_given_up(space, fault, process.wait(TIMEOUT_S + 15))
            assert lab.hub.branches(repo).keys() == {"main"}
            return
        status = space.running()
        assert status["mode"] == "orphan"
        assert space.get("/health")["status"] == "fail"
        main = [c["sha"] for c in lab.hub.commits(repo)]
        fault.mend(lab, repo)
        main_mended = [c["sha"] for c in lab.hub.commits(repo)]
        branch = f"orphan/{status['instance']}"
        space.wait(lambda s: s["sync"]["snapshot"] is not None, 70)
        require_orphan(lab.hub, repo, branch)
        (space.disk / "data/more.txt").write_text("more")
        assert space.end() == 143, space.said()
        assert lab.hub.read(repo, "data/more.txt", branch) == b"more"
        require_orphan(lab.hub, repo, branch)
        assert "Traceback" not in space.said()
        assert "ERROR recovery failed" in space.said()
        assert branch in space.said()
        assert [c["sha"] for c in lab.hub.commits(repo)] == main_mended
        assert len(main_mended) - len(main) <= 1
        assert lab.hub.branches(repo).keys() == {"main", branch}


def require_orphan(hub: LocalHub, repo: str, branch: str) -> None:
    """The branch's manifest names main's own new file, and every file that it names is there."""
    manifest, there = past.manifest_of(hub, repo, branch), hub.entries(repo, branch)
    files = {e["path"]: e for e in manifest["entries"] if e["kind"] == "file"}
    assert "data/new.txt" in files
    for path, entry in files.items():
        assert "bundle" in entry or there[path]["sha256"] == entry["sha256"], path


DOES: dict[str, Callable[[Lab, Fault], None]] = {"exit": gives_up, "wait": waits, "continue": goes_on}
