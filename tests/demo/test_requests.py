"""What people may send who use no browser: every answer is a refusal, and the page goes on."""

import json

import httpx
import pytest

pytestmark = pytest.mark.slow


def events(address, payload, *, target=0):
    """What the page answers to a hand-made event: the messages of its stream up to the end."""
    session = "made_by_hand"
    joined = httpx.post(
        f"{address}/gradio_api/queue/join", timeout=60,
        json={"data": payload, "fn_index": target, "session_hash": session, "trigger_id": None, "event_data": None},
    )  # fmt: skip
    if joined.status_code != 200:
        return [{"msg": "refused", "status": joined.status_code, "success": False}]
    with httpx.stream("GET", f"{address}/gradio_api/queue/data", params={"session_hash": session}, timeout=60) as stream:
        messages = [json.loads(line.removeprefix("data:")) for line in stream.iter_lines() if line.startswith("data:")]
    return [message for message in messages if message["msg"] in ("process_generating", "process_completed")]


def given(path, **more):
    return [{"path": path, "meta": {"_type": "gradio.FileData"}, **more}, True, False]


def test_an_upload_is_answered(served, happy, encoded):
    [path] = httpx.post(f"{served}/gradio_api/upload", files={"files": ("face.png", encoded(happy()))}, timeout=60).json()
    messages = events(served, given(path, orig_name="face.png"))
    assert "Happy, " in json.dumps(messages) and messages[-1]["success"]


@pytest.mark.parametrize("path", [
    "/etc/passwd", "../../../../etc/passwd", "http://127.0.0.1:9/x.png", "https://192.0.2.1/x.png", "file:///etc/passwd", "",
])  # fmt: skip
def test_a_path_that_was_not_uploaded_is_not_read(served, path):
    messages = events(served, given(path))
    assert not messages[-1]["success"]
    assert "root:" not in json.dumps(messages)
    assert httpx.get(served, timeout=60).status_code == 200


@pytest.mark.parametrize("payload", [[], ["/etc/passwd", True, False], [{"path": 3}, "x", "y"], [[], {}, []]])
def test_nonsense_in_an_event_does_no_harm(served, payload):
    messages = events(served, payload)
    assert messages and not messages[-1]["success"] and "root:" not in json.dumps(messages)
    assert httpx.get(served, timeout=60).status_code == 200


@pytest.mark.parametrize("path", ["/etc/passwd", "../../../etc/passwd", "halves.py", "https://example.com/"])
def test_files_of_the_machine_are_not_served(served, path):
    assert httpx.get(f"{served}/gradio_api/file={path}", timeout=60).status_code in (403, 404)


def test_foreign_names_and_sites_are_refused(served):
    assert httpx.get(served, headers={"host": "evil.example"}, timeout=60).status_code == 403
    assert httpx.post(f"{served}/gradio_api/upload", headers={"origin": "http://evil.example"}, timeout=60).status_code == 403
    assert "content-security-policy" in httpx.get(served, timeout=60).headers


def test_a_path_as_a_file_s_name_stays_a_name(served, encoded, happy):
    [path] = httpx.post(f"{served}/gradio_api/upload", files={"files": ("../../../../tmp/a.png", encoded(happy()))}, timeout=60).json()
    assert "fer-ignite-demo-" in path and ".." not in path and path.endswith("/a.png")
