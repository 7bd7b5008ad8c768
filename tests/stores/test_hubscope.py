"""What a token may do beyond its dataset, as whoami-v2 tells it."""

from __future__ import annotations

import pytest

from sidecar.stores.hubscope import wider


def fine(*scoped: tuple[str, str, list[str]], **more: object) -> dict[str, object]:
    scopes = [{"entity": {"type": kind, "name": name}, "permissions": perms} for kind, name, perms in scoped]
    return {"role": "fineGrained", "fineGrained": {"scoped": scopes, "global": [], "canReadGatedRepos": False, **more}}


OWN = ("dataset", "me/state", ["repo.content.read", "repo.write"])


def test_a_token_for_this_dataset_alone_is_not_wider():
    assert wider(fine(OWN), "me", "me/state") == ""
    assert wider(fine(OWN, ("user", "me", [])), "me", "me/state") == ""


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ({"role": "write"}, "write every repository of me (role write)"),
        ({"role": "read"}, "read every repository of me (role read)"),
        (fine(OWN, ("user", "me", ["repo.write"])), "repo.write of user me"),
        (fine(OWN, ("dataset", "me/other", ["repo.content.read"])), "repo.content.read of dataset me/other"),
        (fine(OWN, ("space", "me/state", ["repo.write"])), "repo.write of space me/state"),
        (fine(OWN, **{"global": ["discussion.write"]}), "discussion.write anywhere"),
        (fine(OWN, canReadGatedRepos=True), "read gated repositories"),
        (fine(*(("dataset", f"me/{n}", ["repo.write"]) for n in range(5))), "and 2 more"),
    ],
)
def test_whatever_else_it_reaches_is_named(token, said):
    assert said in (wider(token, "me", "me/state") or "")


@pytest.mark.parametrize(
    "token", [{}, {"role": "god"}, {"role": "fineGrained"}, {"role": "fineGrained", "fineGrained": 3}]
)
def test_what_can_not_be_told_is_not_guessed(token):
    assert wider(token, "me", "me/state") is None


def test_a_malformed_answer_breaks_nothing():
    scopes = {"scoped": [3, {"entity": None, "permissions": ["x"]}], "global": None}
    assert wider({"role": "fineGrained", "fineGrained": scopes}, "", "me/state") == "x of ? ?"
