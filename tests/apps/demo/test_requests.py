"""What people may send who use no browser: every answer is a refusal, and the page continues."""

import json
import socket
import subprocess
import sys

import httpx
import pytest

pytestmark = pytest.mark.slow


def events(address, payload, *, target=0):
    """What the page answers to a hand-made event: the messages of its stream up to the end."""
    session = "made_by_hand"
    joined = httpx.post(
        f"{address}/gradio_api/queue/join",
        timeout=60,
        json={
            "data": payload,
            "fn_index": target,
            "session_hash": session,
            "trigger_id": None,
            "event_data": None,
        },
    )
    if joined.status_code != 200:
        return [{"msg": "refused", "status": joined.status_code, "success": False}]
    with httpx.stream(
        "GET", f"{address}/gradio_api/queue/data", params={"session_hash": session}, timeout=60
    ) as stream:
        messages = [
            json.loads(line.removeprefix("data:"))
            for line in stream.iter_lines()
            if line.startswith("data:")
        ]
    return [
        message
        for message in messages
        if message["msg"] in ("process_generating", "process_completed")
    ]


def given(path, **more):
    return [{"path": path, "meta": {"_type": "gradio.FileData"}, **more}, True, False]


def test_an_upload_is_answered(served, happy, encoded):
    [path] = httpx.post(
        f"{served}/gradio_api/upload", files={"files": ("face.png", encoded(happy()))}, timeout=60
    ).json()
    messages = events(served, given(path, orig_name="face.png"))
    assert "Happy, " in json.dumps(messages) and messages[-1]["success"]


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../../../../etc/passwd",
        "http://127.0.0.1:9/x.png",
        "https://192.0.2.1/x.png",
        "file:///etc/passwd",
        "",
    ],
)
def test_a_path_that_was_not_uploaded_is_not_read(served, path):
    messages = events(served, given(path))
    assert not messages[-1]["success"]
    assert "root:" not in json.dumps(messages)
    assert httpx.get(served, timeout=60).status_code == 200


@pytest.mark.parametrize(
    "payload", [[], ["/etc/passwd", True, False], [{"path": 3}, "x", "y"], [[], {}, []]]
)
def test_nonsense_in_an_event_does_no_harm(served, payload):
    messages = events(served, payload)
    assert messages and not messages[-1]["success"] and "root:" not in json.dumps(messages)
    assert httpx.get(served, timeout=60).status_code == 200


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../../../etc/passwd", "halves.py", "https://example.com/"]
)
def test_files_of_the_machine_are_not_served(served, path):
    assert httpx.get(f"{served}/gradio_api/file={path}", timeout=60).status_code in (403, 404)


def test_foreign_names_and_sites_are_refused(served):
    assert httpx.get(served, headers={"host": "evil.example"}, timeout=60).status_code == 403
    assert (
        httpx.post(
            f"{served}/gradio_api/upload", headers={"origin": "http://evil.example"}, timeout=60
        ).status_code
        == 403
    )
    assert "content-security-policy" in httpx.get(served, timeout=60).headers


def test_a_path_as_a_file_s_name_stays_a_name(served, encoded, happy):
    [path] = httpx.post(
        f"{served}/gradio_api/upload",
        files={"files": ("../../../../tmp/a.png", encoded(happy()))},
        timeout=60,
    ).json()
    assert "fer-ignite-demo-" in path and ".." not in path and path.endswith("/a.png")


def raw_request(address, headers, body):
    """The status code that a hand-written POST to the event queue gets, 0 where the connection is just closed."""
    host, _, port = address.removeprefix("http://").partition(":")
    lines = [
        "POST /gradio_api/queue/join HTTP/1.1",
        *headers(f"{host}:{port}", len(body)),
        "Connection: close",
        "",
        "",
    ]
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall("\r\n".join(lines).encode("latin-1") + body)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return int(answer.split()[1]) if answer else 0


JSON, FORM = "Content-Type: application/json", "Content-Type: multipart/form-data; boundary=x"
ATTACKS = {
    "json, then multipart": lambda host, length: [
        f"Host: {host}",
        JSON,
        FORM,
        f"Content-Length: {length}",
    ],
    "multipart, then json": lambda host, length: [
        f"Host: {host}",
        FORM,
        JSON,
        f"Content-Length: {length}",
    ],
    "other letter case": lambda host, length: [
        f"Host: {host}",
        JSON,
        FORM.replace("Type", "TYPE"),
        f"Content-Length: {length}",
    ],
    "multipart alone": lambda host, length: [f"Host: {host}", FORM, f"Content-Length: {length}"],
    "json with a charset": lambda host, length: [
        f"Host: {host}",
        JSON + "; charset=utf-8",
        f"Content-Length: {length}",
    ],
    "no type": lambda host, length: [f"Host: {host}", f"Content-Length: {length}"],
    "folded line": lambda host, length: [
        f"Host: {host}",
        JSON,
        " multipart/form-data; boundary=x",
        f"Content-Length: {length}",
    ],
    "a list of types": lambda host, length: [
        f"Host: {host}",
        JSON + ", multipart/form-data",
        f"Content-Length: {length}",
    ],
    "two hosts": lambda host, length: [
        f"Host: {host}",
        "Host: evil.example",
        JSON,
        f"Content-Length: {length}",
    ],
    "two origins": lambda host, length: [
        f"Host: {host}",
        f"Origin: http://{host}",
        "Origin: http://evil.example",
        JSON,
        f"Content-Length: {length}",
    ],
    "two lengths": lambda host, length: [
        f"Host: {host}",
        JSON,
        "Content-Length: 5",
        f"Content-Length: {length}",
    ],
    "length and chunks": lambda host, length: [
        f"Host: {host}",
        JSON,
        f"Content-Length: {length}",
        "Transfer-Encoding: chunked",
    ],
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("nested", [False, True])
def test_headers_can_not_make_an_event_name_a_file_of_the_machine(
    served, tmp_path, encoded, happy, attack, nested
):
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded(happy()))
    picture = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    data = [[{"image": picture}] if nested else picture, True, False]
    body = json.dumps(
        {
            "data": data,
            "fn_index": 0,
            "session_hash": "attack",
            "trigger_id": None,
            "event_data": None,
        }
    ).encode()
    assert raw_request(served, ATTACKS[attack], body) in (0, 400, 403)
    assert httpx.get(served, timeout=60).status_code == 200


def test_a_plain_event_by_hand_passes(served, encoded, happy):
    [path] = httpx.post(
        f"{served}/gradio_api/upload", files={"files": ("face.png", encoded(happy()))}, timeout=60
    ).json()
    body = json.dumps(
        {
            "data": given(path),
            "fn_index": 0,
            "session_hash": "plain",
            "trigger_id": None,
            "event_data": None,
        }
    ).encode()
    plain = lambda host, length: [f"Host: {host}", JSON, f"Content-Length: {length}"]  # noqa: E731
    assert raw_request(served, plain, body) == 200


@pytest.mark.parametrize(
    "path",
    ["file/http://127.0.0.1:9/x.png", "file=http://127.0.0.1:9/x.png", "proxy=http://127.0.0.1:9/"],
)
def test_no_address_is_fetched_for_a_visitor(served, path):
    assert httpx.get(f"{served}/gradio_api/{path}", timeout=60).status_code == 403


def test_the_page_checks_parsed_events_itself(tmp_path):
    """In a process of its own: Gradio leaves event loops open."""
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads" / "link.png").symlink_to(tmp_path / "secret.png")
    program = """if True:
        import sys
        import gradio
        from fer_ignite.apps.demo.page import _blocks_class

        blocks = _blocks_class(gradio, sys.argv[1])(analytics_enabled=False)
        for path in ("/etc/passwd", sys.argv[1] + "/../secret.png", sys.argv[1] + "/link.png"):
            try:
                blocks.preprocess_data(None, [[{"picture": {"path": path}}]], None).send(None)
            except gradio.Error as error:
                print(error)
    """
    command = [sys.executable, "-c", program, str(tmp_path / "uploads")]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    assert said.count("events name no other files") == 3, said
