"""Tables of ``fer-ignite evaluate``: one result, several results, figures under corruptions."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fer_ignite.checkpoint.paths import ensemble_members

__all__ = ["class_lines", "cross_table", "describe_confidence", "metric_table", "robustness_text"]


def cross_table(results: Sequence[dict[str, Any]]) -> str:
    """Accuracy and UAR in per cent of every checkpoint (a column each) on every data set (a row each)."""
    columns = list(dict.fromkeys(result["checkpoint"] for result in results))
    rows = list(dict.fromkeys((result["data"], result["split"]) for result in results))
    cells = {
        (result["data"], result["split"], result["checkpoint"]): (
            f"{100 * result['accuracy']:.2f} ({100 * result['uar']:.2f})"
        )
        for result in results
    }
    names = _distinct([_short_name(column), _long_name(column), column] for column in columns)
    sources = list(dict.fromkeys(data for data, _ in rows))
    shown = dict(
        zip(
            sources,
            _distinct([_file_name(data), _tail(data), data] for data in sources),
            strict=True,
        )
    )
    heads = [f"{shown[data]}, {split}" for data, split in rows]
    first = max(map(len, [*heads, "accuracy % (UAR %)"]))
    widths = [max(len(name), 15) for name in names]
    lines = [
        f"{'accuracy % (UAR %)':{first}}"
        + "".join(f"  {name:>{width}}" for name, width in zip(names, widths, strict=True))
    ]
    for head, (data, split) in zip(heads, rows, strict=True):
        found = [cells.get((data, split, column), "-") for column in columns]
        lines.append(
            f"{head:{first}}"
            + "".join(f"  {cell:>{width}}" for cell, width in zip(found, widths, strict=True))
        )
    named = dict(zip(columns, names, strict=True))
    notes = [
        f"{named[result['checkpoint']]} on {shown[result['data']]}: {line}"
        for result in results
        for line in class_lines(result)
    ]
    return "\n".join([*lines, *([""] if notes else []), *dict.fromkeys(notes)])


def _distinct(candidates: Iterable[Sequence[str]]) -> list[str]:
    """Of each thing's names, from short to long, the first that no other thing has; else the longest."""
    levels = list(zip(*candidates, strict=True))
    return [
        next((level[i] for level in levels if level.count(level[i]) == 1), levels[-1][i])
        for i in range(len(levels[0]))
    ]


def _short_name(checkpoint: str) -> str:
    """The run's name where the checkpoint lies in a run, else the file's; those of an ensemble joined by a plus."""
    return "+".join(
        path.parent.parent.name if path.parent.name == "checkpoints" else path.stem
        for path in _paths(checkpoint)
    )


def _long_name(checkpoint: str) -> str:
    """The folder's or the run's name too, as in ``run/best``."""
    return "+".join(
        f"{path.parent.parent.name}/{path.stem}"
        if path.parent.name == "checkpoints"
        else _tail(str(path))
        for path in _paths(checkpoint)
    )


def _paths(checkpoint: str) -> list[Path]:
    return [Path(member.path) for member in ensemble_members(checkpoint)]


def _file_name(data: str) -> str:
    return Path(data).name or data


def _tail(data: str) -> str:
    """A file's name with that of its folder."""
    return "/".join(Path(data).parts[-2:])


def class_lines(result: dict[str, Any]) -> list[str]:
    """How the data's classes were matched with the network's; empty where all agree."""
    lines = []
    if result["renamed"]:
        lines.append(f"classes: {result['renamed']}")
    if result["dropped"]:
        counts = ", ".join(f"{name} {count}" for name, count in result["dropped"].items())
        lines.append(f"left out, unknown to the network: {counts}")
    if result["absent"]:
        lines.append(
            f"not in the data: {', '.join(result['absent'])}; UAR and F1 are over the others"
        )
    if result["restricted"]:
        lines.append("only the data's classes could be predicted (--restrict-classes)")
    return lines


def describe_confidence(result: dict[str, Any]) -> str:
    """How sure the accuracy and the probabilities are, in one line."""
    low, high = result["accuracy_interval"]
    calibrated = (
        f"{100 * result['ece_calibrated']:.2f} % at temperature {result['temperature']:.2f}"
    )
    text = (
        f"95 % interval of the accuracy {100 * low:.2f} to {100 * high:.2f} %   calibration error {100 * result['ece']:.2f} %, "
        + (calibrated if result["calibrated"] else "not calibrated")
    )
    fresh = result.get("without_train_duplicates")
    if fresh is not None and fresh["n"] < result["n"]:
        text += f"\nwithout the {result['n'] - fresh['n']} faces that occur in train too: {100 * fresh['accuracy']:.2f} %"
    return text


def robustness_text(result: dict[str, Any]) -> str:
    """The robustness table for people: a row per corruption and severity, their mean and the calibration."""
    table = result["robustness"]
    width = max(
        len(f"{kind} {severity}")
        for kind, part in table["corruptions"].items()
        for severity in part
    )
    lines = [
        f"{_short_name(result['checkpoint'])} on {result['split']} under corruptions",
        f"{'':{width}}  accuracy     UAR  calibration error",
    ]

    def line(name: str, row: dict[str, float]) -> str:
        return f"{name:{width}}  {100 * row['accuracy']:7.2f}%  {100 * row['uar']:5.2f}%  {100 * row['ece']:16.2f}%"

    lines.append(line("clean", table["clean"]))
    for kind, part in table["corruptions"].items():
        lines += [line(f"{kind} {severity}", row) for severity, row in part.items()]
    lines.append(line("mean of the kinds", table["mean"]))
    if table["robust_temperature"] is not None:
        errors = table["robust_ece"]
        lines.append(
            f"at temperature {table['robust_temperature']:.2f}, fitted on all of these, the calibration error is "
            f"{100 * errors['clean']:.2f} % on clean faces and {100 * errors['mean']:.2f} % in the mean "
            f"(now, at {table['temperature']:.2f}: {100 * table['clean']['ece']:.2f} and {100 * table['mean']['ece']:.2f} %)"
        )
    return "\n".join(lines)


def metric_table(result: dict[str, Any]) -> str:
    """The result for people: totals, a row per expression, the confusion matrix."""
    names = result["class_names"]
    width = max(len(name) for name in names)
    lines = [
        f"{result['checkpoint']} on {result['split']} of {result['data']}: {result['n']} faces, tta {result['tta']}",
        f"accuracy {100 * result['accuracy']:.2f} %   UAR {100 * result['uar']:.2f} %   macro F1 "
        f"{100 * result['macro_f1']:.2f} %   weighted F1 {100 * result['weighted_f1']:.2f} %   loss {result['loss']:.4f}",
        describe_confidence(result),
        *class_lines(result),
        "",
        f"{'':{width}}  precision  recall      F1  support",
    ]
    for name in names:
        row = result["per_class"][name]
        if not row["support"]:
            lines.append(f"{name:{width}}  {'-':>9}  {'-':>6}  {'-':>6}  {0:7d}")
            continue
        lines.append(
            f"{name:{width}}  {100 * row['precision']:9.2f}  {100 * row['recall']:6.2f}  {100 * row['f1']:6.2f}  {row['support']:7d}"
        )
    cell = max(8, width + 1)
    lines += ["", f"{'true / predicted':{width}}" + "".join(f"{name:>{cell}}" for name in names)]
    head = max(width, len("true / predicted"))
    for name, row in zip(names, result["confusion_matrix"], strict=True):
        lines.append(f"{name:{head}}" + "".join(f"{count:>{cell}}" for count in row))
    if "test_evaluations" in result:
        lines += [
            "",
            f"the test split has been scored {result['test_evaluations']} time(s) with this run's networks",
        ]
    return "\n".join(lines)
