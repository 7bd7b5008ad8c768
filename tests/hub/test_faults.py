"""Each fault does what it says, as the real client or a bare socket sees it."""

from __future__ import annotations

import http.client
import os
import time
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import _http

from tests.hub.identity import DEFAULT_TOKEN
from tests.hub.server import LocalHub

# The client's own HTTP library, whose errors it lets through: httpx2 from 2.x on, httpx before.
wire: Any = vars(_http).get("httpx2") or vars(_http)["httpx"]

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def commit(api: HfApi, repo: str, data: bytes = b"1") -> str:
    done = api.create_commit(repo, [CommitOperationAdd("f", data)], commit_message="fault", repo_type="dataset")
    return str(done.oid)


def get(hub: LocalHub, path: str, timeout: float = 5) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", hub.port, timeout=timeout)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {DEFAULT_TOKEN}"})
        reply = connection.getresponse()
        return reply, reply.read()
    finally:
        connection.close()


def test_a_status_has_no_effect_and_ends_after_its_times(api: HfApi, hub: LocalHub, repo: str) -> None:
    rule = hub.fault(endpoint="commit", status=503, headers={"Retry-After": "7"}, body="down", times=2)
    for _ in range(2):
        with pytest.raises(HfHubHTTPError) as refused:
            commit(api, repo)
        assert refused.value.response.status_code == 503
        assert refused.value.response.headers["Retry-After"] == "7"
    assert hub.files(repo) == {}
    commit(api, repo)
    assert hub.fired(rule) == 2
    assert hub.counters()["commit"]["statuses"] == {"503": 2, "200": 1}
    assert [r["fault"] for r in hub.requests("commit")] == ["status", "status", None]


def test_rules_choose_by_method_and_path_and_let_some_pass(hub: LocalHub, repo: str) -> None:
    hub.edit(repo, {"a": b"1", "b": b"2"})
    hub.fault(endpoint="res*", method="GET", path=r"/b$", skip=1, times=None, status=500)
    where = f"/datasets/{repo}/resolve/main/"
    assert [get(hub, where + name)[0].status for name in "abbab"] == [307, 307, 500, 307, 500]
    hub.clear_faults()
    assert get(hub, where + "b")[0].status == 307


@pytest.mark.parametrize("action", ["land_then_status", "land_then_cut"])
def test_a_commit_lands_and_its_answer_is_lost(api: HfApi, hub: LocalHub, repo: str, action: str) -> None:
    hub.fault(action, endpoint="commit")
    with pytest.raises((HfHubHTTPError, wire.HTTPError)):
        commit(api, repo, b"landed")
    assert hub.files(repo) == {"f": b"landed"}


def test_a_request_cut_in_its_body_has_no_effect(api: HfApi, hub: LocalHub, repo: str) -> None:
    hub.fault("cut_request", endpoint="commit", after=1000)
    with pytest.raises(wire.NetworkError):
        commit(api, repo, b"x" * 2_000_000)
    assert hub.files(repo) == {}
    assert 1000 <= hub.requests("commit")[0]["bytes_in"] < 2_000_000


@pytest.mark.parametrize(
    ("action", "error"), [("cut_response", ConnectionResetError), ("truncate", http.client.IncompleteRead)]
)
def test_an_answer_ends_too_soon(hub: LocalHub, repo: str, action: str, error: type[Exception]) -> None:
    hub.settings(regular_redirect=False)
    hub.edit(repo, {"f": b"0123456789" * 100})
    hub.fault(action, endpoint="resolve", after=10)
    with pytest.raises(error):
        get(hub, f"/datasets/{repo}/resolve/main/f")
    assert hub.requests("resolve")[0]["bytes_out"] <= 1000
    assert len(get(hub, f"/datasets/{repo}/resolve/main/f")[1]) == 1000


def test_answers_that_only_a_checksum_finds_out(hub: LocalHub, repo: str) -> None:
    hub.settings(regular_redirect=False)
    hub.edit(repo, {"f": b"0123456789"})
    hub.fault("short", endpoint="resolve", after=4)
    hub.fault("corrupt", endpoint="resolve", after=0)
    hub.fault("corrupt", endpoint="resolve")
    bodies = [get(hub, f"/datasets/{repo}/resolve/main/f")[1] for _ in range(4)]
    assert bodies == [b"0123", b"\xcf123456789", b"01234\xca6789", b"0123456789"]


@pytest.mark.skipif(wire.__name__ == "httpx", reason="huggingface_hub 1.x gives up on a truncated body")
def test_a_download_resumes_behind_a_truncated_answer(
    api: HfApi, hub: LocalHub, repo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The client writes nothing before it has a chunk of 10 MB, and would resume from 0.
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 100_000)
    data = os.urandom(900_000)
    api.upload_file(path_or_fileobj=data, path_in_repo="b.bin", repo_id=repo, repo_type="dataset")
    hub.fault("truncate", endpoint="cdn", after=500_000)
    got = api.hf_hub_download(repo, "b.bin", repo_type="dataset", local_dir=tmp_path)
    assert Path(got).read_bytes() == data
    assert [r["range"] for r in hub.requests("cdn")] == [None, "bytes=500000-"]


def test_delay_and_hang_run_into_the_callers_timeout(hub: LocalHub) -> None:
    hub.fault("pass", endpoint="whoami", delay=0.3)
    begun = time.monotonic()
    assert get(hub, "/api/whoami-v2")[0].status == 200
    assert time.monotonic() - begun >= 0.3
    for action in ("hang", "land_then_hang"):
        hub.fault(action, endpoint="whoami")
        with pytest.raises(TimeoutError):
            get(hub, "/api/whoami-v2", timeout=0.2)
    assert get(hub, "/api/whoami-v2")[0].status == 200


def test_the_hubs_own_rate_limit_is_said_in_headers(hub: LocalHub) -> None:
    hub.settings(api_limit=2)
    hub.reset()
    replies = [get(hub, "/api/whoami-v2")[0] for _ in range(3)]
    assert [r.status for r in replies] == [200, 200, 429]
    assert replies[0].headers["RateLimit"].startswith('"api";r=1;t=')
    assert replies[2].headers["RateLimit"].startswith('"api";r=0;t=')
    assert replies[2].headers["RateLimit-Policy"] == '"fixed window";"api";q=2;w=300'
