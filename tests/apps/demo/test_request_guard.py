import json
from pathlib import Path

import pytest

from fer_ignite.apps.demo.request_guard import POLICY, RequestGuard

LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


async def _never(*_):
    raise AssertionError("the application was called")


def guard(hosts=LOCAL, folder=Path("/uploads")):
    return RequestGuard(_never, hosts=hosts, folder=folder)


@pytest.mark.parametrize(
    "host", ["localhost:7860", "127.0.0.1:7860", "[::1]:7860", "LOCALHOST", "127.0.0.1"]
)
def test_the_page_answers_to_this_machine_s_own_names(host):
    assert guard().check_request("/", {"host": host}) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:7860",
        "127.0.0.1.evil.example",
        "",
        "[::2]:7860",
        "localhost:evil",
    ],
)
def test_a_name_that_only_points_here_is_refused(host):
    assert guard().check_request("/", {"host": host}) is not None
    assert guard(hosts=frozenset()).check_request("/", {"host": host}) is None


def test_other_sites_may_not_use_the_page():
    page = guard()
    own = {"host": "127.0.0.1:7860", "origin": "http://127.0.0.1:7860"}
    assert page.check_request("/gradio_api/upload", own) is None
    for origin in ("http://evil.example", "http://127.0.0.1:8000", "null"):
        assert page.check_request("/gradio_api/upload", {**own, "origin": origin}) is not None


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=https://evil.example/x",
        "/gradio_api/file=HTTP://x",
        "/proxy=ftp://x",
        "/file= http://x",
    ],
)
def test_nothing_is_fetched_for_whoever_asks(path):
    assert guard().check_request(path, {"host": "localhost"}) is not None
    assert guard().check_request("/gradio_api/file=/tmp/a/b.png", {"host": "localhost"}) is None


def test_the_policy_names_no_other_place_than_this_server():
    allowed = {word for rule in POLICY.split(";") for word in rule.split()[1:]}
    assert allowed == {"'self'", "'none'", "'unsafe-inline'", "'unsafe-eval'", "data:", "blob:"}


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../uploads2/x",
        "",
        ".",
        "https://evil.example/x",
        "file:///etc/passwd",
        3,
        ["x"],
        {},
        "a\0b",
        "/uploads",
        "/uploads/../etc/passwd",
    ],
)
def test_no_event_names_a_file_that_was_not_uploaded(tmp_path, path):
    page = guard(folder=tmp_path)
    if isinstance(path, str):
        path = path.replace("/uploads", str(tmp_path))
    assert page.check_event(json.dumps({"data": [[{"x": {"path": path}}]]}).encode()) is not None
    assert (
        page.check_event(
            json.dumps(
                {"data": [{"path": str(tmp_path / "a" / "b.png")}, None, {"path": None}]}
            ).encode()
        )
        is None
    )


def test_a_link_out_of_the_folder_is_followed_and_refused(tmp_path):
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads" / "link.png").symlink_to("/etc/passwd")
    event = json.dumps({"path": str(tmp_path / "uploads" / "link.png")}).encode()
    assert guard(folder=tmp_path / "uploads").check_event(event) is not None


@pytest.mark.parametrize(
    "body", [b"{", b"\xff", b"[" * 200_000, b" " * 3_000_000, b'"' + b"a" * 2_000_000 + b'"']
)
def test_what_is_no_event_is_refused(body):
    assert guard().check_event(body) is not None
    assert guard().check_event(b"") is None
