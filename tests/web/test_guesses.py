from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.web import access
from sidecar.web.access import TCP, UNIX, Caller
from sidecar.web.guesses import WINDOW_S, Guesses, guesser
from tests.web.serving import serving, state_of

TOKEN = "s3cret-token"


def who(peer: str = "192.0.2.1", **headers: str) -> Caller:
    return Caller(TCP, peer, tuple((k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_who_guesses_waits_out_the_minute():
    guesses = Guesses(per_minute=3)
    for _ in range(3):
        assert guesses.wait_s("a", 100.0) == 0
        guesses.wrong("a", 100.0)
    assert guesses.wait_s("a", 100.0) == WINDOW_S
    assert guesses.wait_s("b", 100.0) == 0, "nobody else waits"
    assert guesses.wait_s("a", 100.0 + WINDOW_S) == 0
    guesses.wrong("a", 100.0 + WINDOW_S)
    assert guesses.wait_s("a", 100.0 + WINDOW_S) == 0, "a new minute begins from nothing"


@given(st.lists(st.tuples(st.text(max_size=3), st.floats(0, 600)), max_size=200))
def test_the_table_stays_bounded(wrongs):
    guesses = Guesses(per_minute=2, callers=8)
    for name, at in sorted(wrongs, key=lambda each: each[1]):
        guesses.wrong(name, at)
        assert len(guesses) <= 8
        assert 0 <= guesses.wait_s(name, at) <= WINDOW_S + 1e-6


def test_whom_a_guess_is_put_down_to():
    assert guesser(who()) != guesser(who("192.0.2.2"))
    near = guesser(who(x_forwarded_for="1.1.1.1, 198.51.100.7"))
    assert near == guesser(who(x_forwarded_for="9.9.9.9, 198.51.100.7")), "what a visitor makes up does not count"
    assert near != guesser(who(x_forwarded_for="198.51.100.8"))
    assert guesser(who("2001:db8::1")) == guesser(who("2001:db8::ffff")), "one network"
    assert guesser(who("2001:db8::1")) != guesser(who("2001:db8:0:1::1"))
    assert guesser(who("::ffff:192.0.2.1")) != guesser(who("::ffff:192.0.2.2"))
    assert len(guesser(who(x_forwarded_for="x" * 10_000))) < 200


def test_a_hub_token_of_a_private_space_is_no_guess():
    assert not access.is_guess(who(authorization="Bearer hf_abc"), TOKEN)
    assert access.is_guess(who(authorization="Bearer hf_abc"), "hf_other"), "unless ours looks like one"
    assert access.is_guess(who(authorization="Bearer nope"), TOKEN)
    assert not access.is_guess(who(authorization=f"Bearer {TOKEN}"), TOKEN)
    assert not access.is_guess(who(authorization="Basic bm9wZQ=="), TOKEN)
    assert not access.is_guess(who(), TOKEN)
    assert not access.is_guess(who(authorization="Bearer nope"), None)
    assert access.has_token(Caller(UNIX, None, who(authorization=f"Bearer {TOKEN}").headers), TOKEN)


def test_over_http_a_guesser_gets_429_and_no_answer_whether_it_was_right(tmp_path):
    with serving(tmp_path, state_of(), api_token=TOKEN) as one:
        answers = [one.ask("/sync", "POST", bearer(f"guess-{n}")).status for n in range(12)]
        assert answers == [401] * 10 + [429] * 2
        right = one.ask("/sync", "POST", bearer(TOKEN))
        assert (right.status, right.json["error"]) == (429, "wrong-tokens")
        assert 0 < int(right.headers["retry-after"]) <= 60
        assert one.ask("/status", headers=bearer(TOKEN)).status == 429
        assert one.verbs.asked == []
        assert one.state.measures.wrong_tokens == 10
        elsewhere = {**bearer(TOKEN), "X-Forwarded-For": "198.51.100.7"}
        assert one.ask("/sync", "POST", elsewhere).status == 200, "the owner is not locked out"
        assert one.ask("/status").status == 200, "who shows no token reads what anybody may"
        assert one.ask("/health", headers=bearer("guess")).status == 200, "a ping is never refused"
        assert one.ask_unix("/sync", "POST", bearer("guess")).status == 200


def test_reading_with_wrong_tokens_is_guessing_too(tmp_path):
    with serving(tmp_path, state_of(), api_token=TOKEN) as one:
        assert [one.ask("/status", headers=bearer(f"{n}")).status for n in range(12)] == [200] * 10 + [429] * 2
        hub = [one.ask("/status", headers={**bearer("hf_x"), "X-Forwarded-For": "198.51.100.9"}) for _ in range(12)]
        assert {reply.status for reply in hub} == {200}, "a Hub token, which opens a private Space, is no guess"
