"""Xet with the real client in a process of its own: it reads HF_ENDPOINT when it is imported."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hub import merkle, xorb
from tests.hub.server import LocalHub

# Does the steps of its argument and prints what each answered; errors by class, so that a test can tell.
CLIENT = """
import hashlib, json, sys
from huggingface_hub import CommitOperationAdd, HfApi
api, repo, steps = HfApi(), sys.argv[1], json.loads(sys.argv[2])
for verb, *args in steps:
    try:
        if verb == "put":
            add = [CommitOperationAdd(path, source) for path, source in args[0].items()]
            api.create_commit(repo, add, commit_message="put", repo_type="dataset")
            print("ok")
        else:
            path = api.hf_hub_download(repo, args[0], repo_type="dataset", local_dir=args[1])
            print(hashlib.sha256(open(path, "rb").read()).hexdigest())
    except Exception as exc:
        print(f"{type(exc).__name__}: {exc}"[:300].replace(chr(10), " "))
"""


@pytest.fixture(scope="module")
def hub() -> Iterator[LocalHub]:
    with LocalHub() as hub:
        yield hub


@pytest.fixture
def repo(hub: LocalHub) -> str:
    hub.reset()
    hub.settings(xet_v2=True, xet_token_seconds=3600)
    name = f"alice/xet-{len(hub.repos())}"
    hub.create_repo(name)
    return name


def client(hub: LocalHub, repo: str, *steps: list[Any], home: Path, **env: str) -> list[str]:
    """Each step's answer: `ok` for a put, the sha256 of what a get brought, or the error."""
    command = [sys.executable, "-c", CLIENT, repo, json.dumps(steps)]
    values = {**os.environ, **hub.env(home=home), **env}
    done = subprocess.run(command, env=values, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_round_trip_and_what_a_second_version_costs(hub: LocalHub, repo: str, tmp_path: Path) -> None:
    data = random.Random(str(tmp_path)).randbytes(5_000_000)
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(data)
    two.write_bytes(data[:2_000_000] + b"an edit in the middle" + data[2_000_000:])
    small = tmp_path / "small"
    small.write_bytes(b"\0" + b"abcd" * 50_000)
    home = tmp_path / "home"
    steps = (["put", {"big.bin": str(one), "s.bin": str(small)}], ["get", "big.bin", str(tmp_path / "a")])
    assert client(hub, repo, *steps, home=home) == ["ok", sha(one)]
    first = hub.counters()
    assert first["xet_xorb_put"]["bytes_in"] < 5_100_000  # repeated text packs to almost nothing
    assert not {"lfs_put", "cdn", "xet_shard"} & set(first)
    more = (
        ["put", {"big.bin": str(two)}],
        ["get", "big.bin", str(tmp_path / "b")],
        ["get", "s.bin", str(tmp_path)],
    )
    assert client(hub, repo, *more, home=home) == ["ok", sha(two), sha(small)]
    assert hub.counters()["xet_xorb_put"]["bytes_in"] - first["xet_xorb_put"]["bytes_in"] < 500_000
    assert hub.read(repo, "big.bin") == two.read_bytes()
    assert {r["authorized"] for r in hub.requests("xet_xorb")} == {False}
    assert hub.used(repo) > 10_000_000  # storage counts both versions in full


def test_another_machine_learns_what_the_server_knows(hub: LocalHub, repo: str, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(os.urandom(3_000_000))
    assert client(hub, repo, ["put", {"a.bin": str(file)}], home=tmp_path / "one") == ["ok"]
    sent = hub.counters()["xet_xorb_put"]["bytes_in"]
    again = (["put", {"b.bin": str(file)}], ["get", "b.bin", str(tmp_path / "got")])
    assert client(hub, repo, *again, home=tmp_path / "two") == ["ok", sha(file)]
    assert hub.counters()["xet_xorb_put"]["bytes_in"] == sent
    assert hub.counters()["xet_chunk"]["statuses"].get("200", 0) >= 1


def test_the_first_protocol_version_and_clients_without_xet(
    hub: LocalHub, repo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.settings(xet_v2=False)
    file = tmp_path / "f"
    file.write_bytes(os.urandom(400_000))
    steps = (["put", {"a.bin": str(file)}], ["get", "a.bin", str(tmp_path / "got")])
    assert client(hub, repo, *steps, home=tmp_path / "home") == ["ok", sha(file)]
    assert hub.count("xet_shard") == hub.count("xet_reconstruction") == 1
    # What came over Xet is there for plain HTTP, and the other way round.
    off = tmp_path / "off"
    plain = (["get", "a.bin", str(off)], ["put", {"b.bin": str(file), "c.bin": sys.executable}])
    assert client(hub, repo, *plain, home=off, HF_HUB_DISABLE_XET="1") == [sha(file), "ok"]
    assert hub.count("cdn") == 1
    assert hub.count("lfs_put") == 1  # b.bin's content was known
    got = client(hub, repo, ["get", "c.bin", str(tmp_path / "back")], home=tmp_path / "home")
    assert got == [sha(Path(sys.executable))]
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    entries = {e.path: e for e in hub.api().list_repo_tree(repo, repo_type="dataset")}
    assert [getattr(entries[p], "xet_hash", None) is None for p in ("a.bin", "b.bin", "c.bin")] == [
        False,
        False,
        True,
    ]


def test_faults_reach_the_cas(hub: LocalHub, repo: str, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(os.urandom(300_000))
    hub.fault(endpoint="xet_xorb_put", status=503)
    hub.fault("land_then_status", endpoint="xet_shard_v2", status=502, body="")
    hub.fault("truncate", endpoint="xet_xorb", after=1000)
    steps = (["put", {"a.bin": str(file)}], ["get", "a.bin", str(tmp_path / "got")])
    hasty = {"HF_XET_CLIENT_RETRY_BASE_DELAY": "10ms"}
    assert client(hub, repo, *steps, home=tmp_path / "home", **hasty) == ["ok", sha(file)]
    assert [r["fired"] for r in hub.faults()] == [1, 1, 1]
    assert hub.counters()["xet_xorb_put"]["statuses"] == {"503": 1, "200": 1}


def test_hf_xet_finds_a_damaged_header_but_not_damaged_content(hub: LocalHub, repo: str, tmp_path: Path) -> None:
    """Why restore compares every sha256: hf_xet 1.8.0 hands out a chunk that was damaged on its way."""
    file = tmp_path / "f"
    file.write_bytes(os.urandom(300_000))
    assert client(hub, repo, ["put", {"a.bin": str(file)}], home=tmp_path / "home") == ["ok"]
    hub.fault("corrupt", endpoint="xet_xorb", after=100)
    hub.fault("corrupt", endpoint="xet_xorb", after=0, times=None)
    steps = (["get", "a.bin", str(tmp_path / "content")], ["get", "a.bin", str(tmp_path / "header")])
    impatient = {"HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "1", "HF_XET_CLIENT_RETRY_BASE_DELAY": "10ms"}
    content, header = client(hub, repo, *steps, home=tmp_path / "home", **impatient)
    wrong = bytearray(file.read_bytes())
    wrong[100 - 8] ^= 0xFF  # 8 bytes of chunk header stand before the content
    assert content == hashlib.sha256(wrong).hexdigest()
    assert "Malformed data" in header


def test_xorbs_and_shards_are_checked(hub: LocalHub, repo: str) -> None:
    token = json.loads(_call(hub, "GET", f"/api/datasets/{repo}/xet-write-token/main", hub.env()["HF_TOKEN"])[1])
    reader = json.loads(_call(hub, "GET", f"/api/datasets/{repo}/xet-read-token/main", hub.env()["HF_TOKEN"])[1])
    good = b"\0\x05\0\0\0\x05\0\0hello"
    name = xorb.index(good).hash
    path = f"/v1/xorbs/default/{name}"
    write = token["accessToken"]
    assert _call(hub, "POST", path, reader["accessToken"], good)[0] == 403
    assert _call(hub, "POST", path, "forged", good)[0] == 401
    assert _call(hub, "POST", path, write, good.replace(b"hello", b"jello"))[0] == 400
    assert _call(hub, "POST", path, write, good[:-1])[0] == 400
    assert _call(hub, "POST", path, write, good) == (200, b'{"was_inserted":true}')
    assert _call(hub, "POST", path, write, good) == (200, b'{"was_inserted":false}')
    assert _call(hub, "POST", "/v2/shards", write, b"no shard")[0] == 400
    assert _call(hub, "GET", "/v2/reconstructions/" + "0" * 64, write)[0] == 404


def _call(hub: LocalHub, method: str, path: str, token: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", hub.port, timeout=10)
    try:
        connection.request(method, path, body, {"Authorization": f"Bearer {token}"})
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


@given(st.binary(min_size=32, max_size=32))
def test_a_hash_survives_its_text(raw: bytes) -> None:
    assert merkle.from_hex(merkle.to_hex(raw)) == raw


@settings(max_examples=50)
@given(st.binary(max_size=2000))
def test_grouped_bytes_come_back_in_order(data: bytes) -> None:
    import lz4.frame  # type: ignore[import-untyped]

    packed = lz4.frame.compress(b"".join(data[n::4] for n in range(4)))
    header = bytes([0, *len(packed).to_bytes(3, "little"), 2, *len(data).to_bytes(3, "little")])
    assert [content for _, _, content in xorb.unpack(header + packed)] == [data]
