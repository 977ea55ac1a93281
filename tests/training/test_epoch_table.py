"""The rows that people read while a run trains."""

import re

import pytest

from fer_ignite.training.epoch_table import EpochTable, format_duration

LINE = {
    "epoch": 3,
    "train_loss": 1.23456,
    "train_accuracy": 0.5,
    "val_loss": 0.98765,
    "val_accuracy": 0.6789,
    "val_uar": 0.6234,
    "val_macro_f1": 0.6111,
    "lr": 0.000496,
    "epoch_seconds": 61.4,
    "remaining_s": 3725.0,
    "images_per_second": 12345.6,
    "is_best": True,
    "worst_recall": 0.25,
}


def table(width=None, *, monitor="accuracy", logged=(), line=LINE, epochs=100):
    made = EpochTable(epochs, monitor, width=width)
    groups, titles = made.header(line, logged)
    return groups, titles, made.row(line)


def test_a_row_has_every_figure_in_its_unit():
    groups, titles, row = table()
    assert groups.split() == ["train", "val"]
    assert titles.split() == [
        "epoch",
        "loss",
        "acc",
        "loss",
        "acc",
        "UAR",
        "lr",
        "time",
        "ETA",
        "image/s",
    ]
    assert row.split() == [
        "3/100",
        "1.2346",
        "50.00%",
        "0.9877",
        "67.89%",
        "62.34%",
        "0.000496",
        "1:01",
        "1:02:05",
        "12,346",
        "*",
    ]


def test_columns_stand_below_their_titles():
    _, titles, row = table()
    ends = [match.end() for match in re.finditer(r"\S+", titles)]
    assert [match.end() for match in re.finditer(r"\S+", row)][:-1] == ends


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("logged", [(), ("worst_recall",), ("worst_recall", "lr_of_the_head")])
@pytest.mark.parametrize("monitor", ["accuracy", "macro_f1", "my_own_monitored_metric"])
def test_rows_fit_the_terminal_and_keep_what_matters_most(width, logged, monitor):
    line = {**LINE, "gpu_gib": 3.2, "lr_of_the_head": 1.0, "val_my_own_monitored_metric": 0.1}
    groups, titles, row = table(width, monitor=monitor, logged=logged, line=line)
    assert max(map(len, (groups, titles, row))) <= width
    assert titles.split()[0] == "epoch" and "67.89%" in row
    if width == 120 and not logged and monitor == "accuracy":
        assert "GPU GiB" in titles and "3.2" in row


def test_at_80_columns_loss_accuracy_rate_time_and_eta_are_there():
    _, titles, row = table(80)
    assert titles.split() == ["epoch", "loss", "acc", "loss", "acc", "UAR", "lr", "time", "ETA"]
    assert row.endswith("  *") and len(row) <= 80


def test_values_of_users_and_another_monitored_metric_have_columns():
    _, titles, row = table(None, monitor="macro_f1", logged=["worst_recall"])
    assert "macro_f1" in titles and "61.11%" in row
    assert "worst_recall" in titles and "0.2500" in row


def test_the_header_comes_once_and_again_when_columns_change():
    made = EpochTable(2, "accuracy", width=None)
    assert len(made.header(LINE, ())) == 2
    assert made.header(LINE, ()) == []
    assert len(made.header(LINE, ("worst_recall",))) == 2


def test_what_is_missing_is_a_dash():
    *_, row = table(line={"epoch": 1, "lr": 0.1, "epoch_seconds": 2.0, "images_per_second": 1.0})
    assert row.split() == ["1/100", *"-----", "0.1", "2.0s", "-", "1"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0s"), (59.94, "59.9s"), (60, "1:00"), (3599.6, "1:00:00"), (90061, "25:01:01")],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text
