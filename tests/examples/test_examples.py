"""The handlers of examples/ do what their text says, from the command line and from Python."""

import http.server
import json
import sys
import threading
from pathlib import Path
from typing import ClassVar

import pytest

from fer_ignite import build_session, train
from fer_ignite.imports import load_object

EXAMPLES = Path(__file__).parents[2] / "examples"
FILE = EXAMPLES / "handlers.py"


def example(name):
    return f"{FILE}:{name}"


def history(summary):
    return [
        json.loads(line)
        for line in (Path(summary["folder"]) / "history.jsonl").read_text().splitlines()
    ]


def test_a_plain_handler_counts_and_continues_counting_after_a_resume(tiny):
    first = train(tiny(handlers=example("count_faces")))
    assert [line["faces_seen"] for line in history(first)] == [112, 224]
    again = train(
        tiny(
            handlers=example("count_faces"),
            epochs=3,
            resume="auto",
            sched="constant",
            override="sched",
        )
    )
    assert [line["faces_seen"] for line in history(again)] == [112, 224, 336]


def test_a_handler_on_an_event_of_the_step_logs_what_it_sees(tiny):
    summary = train(tiny(handlers=example("watch_gradients"), batch_size=8))  # 14 steps per epoch
    values = [line["largest_gradient"] for line in history(summary)]
    assert len(values) == 2 and all(value > 0 for value in values)


class _Heard(http.server.BaseHTTPRequestHandler):
    messages: ClassVar[list[dict]] = []

    def do_POST(self):
        self.messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_a_webhook_is_called_at_the_run_s_end(tiny, monkeypatch):
    server = http.server.HTTPServer(("127.0.0.1", 0), _Heard)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    monkeypatch.setenv("WEBHOOK_URL", f"http://127.0.0.1:{server.server_port}/")
    summary = train(tiny(handlers=example("send_webhook")))
    thread.join(timeout=20)
    server.server_close()
    assert _Heard.messages == [
        {"run": "run", "epochs": 2, "best": pytest.approx(summary["best"]["value"])}
    ]


def test_a_webhook_that_can_t_be_reached_is_only_reported(tiny, monkeypatch, capsys):
    monkeypatch.setenv("WEBHOOK_URL", "http://127.0.0.1:9/")
    assert train(tiny(handlers=example("send_webhook")))["status"] == "completed"
    assert "could not be reached" in capsys.readouterr().out


def test_an_own_logger_writes_a_line_per_epoch(tiny):
    summary = train(tiny(handlers=[example("log_to_file"), example("count_faces")]))
    lines = (Path(summary["folder"]) / "epochs.txt").read_text().splitlines()
    assert len(lines) == 2 and "val_accuracy=" in lines[0] and "faces_seen=224" in lines[1]


def test_an_own_metric_chooses_the_best_and_stops_early(tiny):
    summary = train(
        tiny(
            handlers=example("worst_recall"), monitor="worst_recall", patience=1, epochs=9, lr=1e-9
        )
    )
    lines = history(summary)
    # nothing is learnt, so nothing is gained
    assert summary["status"] == "early_stopped" and summary["epochs"] == 2
    assert summary["best"] == {
        "metric": "worst_recall",
        "value": lines[0]["val_worst_recall"],
        "epoch": 1,
    }


def test_all_of_them_work_together_with_ignite_in_hand(tiny):
    names = ("count_faces", "watch_gradients", "log_to_file", "worst_recall")
    session = build_session(
        tiny(), handlers=[load_object(example(name), setting="--handlers") for name in names]
    )
    session.run()
    session.close()
    line = list(session.folder.read_history())[-1]
    assert {"faces_seen", "largest_gradient", "val_worst_recall"} <= set(
        line
    ) or "largest_gradient" not in line
    assert session.evaluator.state.metrics["worst_recall"] == line["val_worst_recall"]
    assert [name for name in sys.modules if name.startswith("fer_ignite_user_handlers")]
