"""Who may see the page: keys and logins, names that lead here, pages of other origins."""

import hashlib
import logging
import socket
import ssl
from dataclasses import replace

import pytest
from fake_policy import DATASET
from watched import KEY, WatchedPolicy, png, watched

from spatialvla.serving.dashboard.visitors import Visitors
from spatialvla.serving.guard.access import Access

LOCKED = Access((hashlib.sha256(KEY.encode()).digest(),))
PARTS = ("/live", "/robot/1/0/image.jpg", "/trial/1/0/image.jpg", "/nothing")
TRIAL = {"camera-0": png(), "instruction": "go", "dataset": DATASET}


def test_without_a_key_nothing_is_shown_or_tried():
    policy = WatchedPolicy()
    with watched(policy, access=LOCKED) as (running, page):
        welcome = page.get("/")
        assert welcome.status == 401
        assert 'type="password"' in welcome.text
        for path in PARTS:
            answer = page.get(path)
            assert answer.status == 401
            assert answer.headers["HX-Redirect"] == "/", "a page whose login is over shows the form again"
        assert page.post("/try", TRIAL).status == 401
        assert policy.batches == []
        assert not page.robots.watching
        wrong = page.log_in("another-key-of-some-length")
        assert wrong.status == 401
        assert "none of this server" in wrong.text
        assert "Set-Cookie" not in wrong.headers
        assert running.value("refused_connections_total", reason="unauthorized") == 1


def test_a_login_is_no_upload():
    with watched(access=LOCKED) as (_, page):
        assert page.log_in("x" * 5000).status == 413


def test_a_login_lasts_until_it_is_ended():
    with watched(access=LOCKED) as (_, page):
        answer = page.log_in(f" {KEY} ")
        assert (answer.status, answer.headers["Location"]) == (303, "/")
        flags = answer.headers["Set-Cookie"].lower()
        assert "httponly" in flags
        assert "samesite=strict" in flags
        assert "secure" not in flags, "the cookie goes over plain HTTP on loopback"
        assert KEY not in answer.headers["Set-Cookie"]
        assert page.get("/").status == 200
        assert "<table>" in page.post("/try", TRIAL).text
        before = page.cookie
        assert page.post("/logout", {}).status == 303
        page.cookie = before
        assert page.get("/").status == 401
        assert page.get("/live").status == 401


def test_programs_send_the_key_in_a_header():
    with watched(access=LOCKED) as (_, page):
        assert page.get("/live", Authorization=f"Bearer {KEY}").status == 200
        assert page.get("/live", Authorization=f"Bearer {KEY[:-1]}").status == 401
        assert page.post("/try", TRIAL, Authorization=f"Api-Key {KEY}").status == 200


def test_keys_are_in_no_address_and_no_log(caplog):
    caplog.set_level(logging.DEBUG)
    with watched(access=LOCKED) as (_, page):
        assert page.get(f"/live?key={KEY}").status == 401
        page.log_in(KEY)
        page.log_in(KEY + "x")
        token = page.cookie.partition("=")[2]
        assert KEY not in page.get("/").text
    assert KEY not in caplog.text
    assert token not in caplog.text


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{port}", 200),
        ("localhost:{port}", 200),
        ("[::1]:{port}", 200),
        ("192.168.1.7", 200),
        (socket.gethostname(), 200),
        ("robots.example:{port}", 403),
        ("localhost.example:{port}", 403),
        ("127.0.0.1.example", 403),
        ("", 403),
    ],
)
def test_a_name_that_somebody_else_points_here_shows_nothing(host, status):
    with watched() as (_, page):
        assert page.get("/live", Host=host.format(port=page.port)).status == status


def test_with_keys_any_name_will_do():
    with watched(access=LOCKED) as (_, page):
        page.log_in(KEY)
        assert page.get("/live", Host="robots.example").status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
def test_pages_of_other_origins_ask_and_post_in_vain(headers):
    policy = WatchedPolicy()
    with watched(policy) as (_, page):
        for path in PARTS:
            assert page.get(path, **headers).status == 403
        for path in ("/try", "/login", "/logout"):
            assert page.post(path, TRIAL, **headers).status == 403
        assert policy.batches == []


def test_what_no_page_says_it_sends_is_not_posted():
    with watched() as (_, page):
        assert page.ask("POST", "/try", b"").status == 403


def test_a_link_from_elsewhere_opens_the_page_and_nothing_else():
    with watched() as (_, page):
        followed = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
        assert page.get("/", **followed).status == 200
        assert page.get("/live", **followed).status == 403


def test_every_answer_says_that_only_what_is_from_here_runs():
    with watched() as (_, page):
        answers = [
            page.get(path) for path in ("/", "/live", "/nothing", "/static/page.css", "/static/page.js")
        ]
        answers += [page.get("/", Host="evil.example"), page.ask("DELETE", "/"), page.post("/try", TRIAL)]
        for answer in answers:
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "script-src 'self'" in policy
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.headers["Referrer-Policy"] == "same-origin"


def test_over_tls_the_cookie_never_leaves_it(certificate):
    cert, key = certificate
    access = replace(Access.for_host("127.0.0.1", tls_cert=cert, tls_key=key), digests=LOCKED.digests)
    with watched(access=access, tls=ssl.create_default_context(cafile=cert)) as (_, page):
        answer = page.log_in(KEY)
        assert answer.status == 303
        assert "secure" in answer.headers["Set-Cookie"].lower()
        assert page.get("/live").status == 200
        assert page.post("/try", TRIAL, Origin=f"http://127.0.0.1:{page.port}").status == 403


def test_logins_end_by_themselves_and_are_bounded():
    now = [0.0]
    visitors = Visitors(LOCKED, clock=lambda: now[0])
    first, *others = (visitors.log_in(KEY) for _ in range(33))
    assert not visitors.admits(None, first), "the oldest of too many"
    assert all(visitors.admits(None, token) for token in others)
    now[0] = 12 * 3600 + 1
    assert not any(visitors.admits(None, token) for token in others)
    assert not visitors.admits(None, "")
    assert not visitors.admits(None, None)
    assert visitors.log_in("") is None
