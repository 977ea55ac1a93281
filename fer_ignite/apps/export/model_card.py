"""Model card of an export: interface, training data, figures, intended use and limits."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fer_ignite.inference.metadata import INPUT, OUTPUT, ExportMetadata

__all__ = ["render_model_card"]

_NAMES = {
    "onnx": "ONNX",
    "torch-export": "torch.export",
    "openvino": "OpenVINO IR",
    "litert": "LiteRT (TFLite)",
    "safetensors": "safetensors",
    "state-dict": "a PyTorch state dict",
}
_SETTINGS = ("model", "epochs", "batch_size", "opt", "lr", "sched", "loss", "smoothing", "seed")

_ONNX = """\
import json, numpy as np, onnxruntime
session = onnxruntime.InferenceSession({literal})
record = json.loads(session.get_modelmeta().custom_metadata_map["fer_ignite"])
faces = np.zeros((1, {side}, {side}, {channels}), np.uint8)          # [batch, height, width, channels], 0..255
[probabilities] = session.run(["probabilities"], {{"faces": faces}})
print(record["classes"][probabilities[0].argmax()])
# or, for image files, without torch: fer-ignite predict {word} faces/*.jpg"""

_PROGRAM = """\
import json, torch
extra = {{"fer_ignite.json": ""}}
module = torch.export.load({literal}, extra_files=extra).module()
record = json.loads(extra["fer_ignite.json"])
faces = torch.zeros(1, {side}, {side}, {channels}, dtype=torch.uint8)   # [batch, height, width, channels], 0..255
print(record["classes"][module(faces).argmax()])"""

_OPENVINO = """\
import json, numpy as np, openvino
core = openvino.Core()
model = core.read_model({literal})                                    # its weights lie beside it, in the .bin file
record = json.loads(model.get_rt_info("fer_ignite").value)
faces = np.zeros((1, {side}, {side}, {channels}), np.uint8)          # [batch, {side}, {side}, {channels}], 0..255
probabilities = core.compile_model(model, "CPU")({{"faces": faces}})["probabilities"]
print(record["classes"][probabilities[0].argmax()])"""

_LITERT = """\
import json, zipfile, numpy as np
from ai_edge_litert.interpreter import Interpreter
record = json.loads(zipfile.ZipFile({literal}).read("fer_ignite.json"))   # behind the graph, as a zip archive
interpreter = Interpreter({literal})
interpreter.allocate_tensors()
face = np.zeros((1, {side}, {side}, {channels}), np.uint8)           # [1, {side}, {side}, {channels}], 0..255
interpreter.set_tensor(interpreter.get_input_details()[0]["index"], face)
interpreter.invoke()
probabilities = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
print(record["classes"][probabilities[0].argmax()])"""

_SAFETENSORS = """\
import json
from safetensors import safe_open
with safe_open({literal}, framework="pt") as file:
    record = json.loads(file.metadata()["fer_ignite"])
    state = {{name: file.get_tensor(name).float() for name in file.keys()}}"""

_STATE_DICT = """\
import json
from torch import load
content = load({literal}, weights_only=True)
record, state = json.loads(content["fer_ignite"]), content["state_dict"]
# or, to train on: fer-ignite train --init-from {word}"""

_SNIPPETS = {
    "onnx": _ONNX,
    "torch-export": _PROGRAM,
    "openvino": _OPENVINO,
    "litert": _LITERT,
    "safetensors": _SAFETENSORS,
    "state-dict": _STATE_DICT,
}

_LIMITS = """\
- It tells which label people would likely give to the look of a face. What the person feels is another matter, and no
  figure here says anything about it.
- It expects one upright face that fills the image, cut out as the training's were. It always answers, also for images
  without a face, and may be sure of its answer.
- The figures hold for images like the data's, below. Whether they hold equally for all ages, skin tones, sexes and cultures
  was not measured: measure it on people like yours before any use.
- Probabilities are calibrated on the training's own validation faces, if at all (the temperature above is then not 1)."""

_USE = """\
For research and teaching, and for applications in which an error harms nobody and the people seen know of it and agree. Not for
decisions about a person - hiring, schooling, credit, health, policing, border control, insurance - nor for watching people
unasked. In the European Union, inferring emotions at work and in education is forbidden but for medical and safety
reasons (Regulation 2024/1689, article 5), and other uses carry duties. The data's own licence binds the use of the weights too."""


def _title(record: ExportMetadata) -> str:
    members = record.network.get("members")
    name = str(record.network["model"])
    return f"Ensemble of {members} networks ({name})" if members else name


def render_model_card(
    record: ExportMetadata,
    *,
    form: str,
    file: str,
    sizes: Sequence[int],
    check: Mapping[str, Any],
    configs: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> str:
    """The card as Markdown.

    Args:
        sizes: bytes of each file.
        check: of :func:`fer_ignite.apps.export.compare.compare_outputs`.
        configs: the run's settings; of an ensemble each member's.
        summary: the run's, where the checkpoint is its best one and still lies in it; else empty.
        notes: what went otherwise than usual.
    """
    classes = ", ".join(record.classes)
    files = "One file" if len(sizes) == 1 else f"{len(sizes)} files"
    parts = [
        f"# {_title(record)}, facial expressions, as {_NAMES[form]} ({record.weights} weights)",
        f"Names the expression on the image of one face: {classes}. {files} of {sum(sizes) / 1e6:.2f} MB, written by "
        f"fer_ignite {record.origin['versions'].get('fer_ignite', '')}".rstrip()
        + ".",
        "## Use",
        f"```python\n{_snippet(record, form, file=file)}\n```",
        "\n".join(_interface(record, form)),
        "## Intended use",
        _USE,
        "## Limits",
        _LIMITS + _own_limits(record, check),
        "## Data",
        "\n".join(_data(record, configs[0])),
        "## Figures",
        "\n".join(_figures(record, check, summary=summary)),
        "## Training",
        "\n".join(_training(record, configs)),
    ]
    if notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in notes)]
    return "\n\n".join(parts) + "\n"


def _snippet(record: ExportMetadata, form: str, *, file: str) -> str:
    return _SNIPPETS[form].format(
        # A file's name as a Python literal, and as a word of a command line.
        literal=json.dumps(file, ensure_ascii=False),
        word=shlex.quote(file),
        side=record.side_px,
        channels=record.channels,
    )


def _interface(record: ExportMetadata, form: str) -> Iterator[str]:
    fields = record.preprocessing
    mean, std = (", ".join(f"{value:.4f}" for value in fields[name]) for name in ("mean", "std"))
    cut = (
        ""
        if fields["image_px"] == fields["resize_px"]
        else f"the middle {fields['image_px']} px cut out, "
    )
    steps = (
        f"resized to {fields['resize_px']} px (bilinear, antialiased), {cut}divided by 255, less the mean {mean}, over the "
        f"deviation {std}"
    )
    if form in ("onnx", "torch-export", "openvino", "litert"):
        is_fixed = form in ("openvino", "litert")
        sides = f"{record.side_px}, {record.side_px}" if is_fixed else "height, width"
        faces = "faces of this size" if is_fixed else "square faces of any side"
        batch = "1" if form == "litert" else "batch"
        # litert-torch names the ends args_0 and output_0; there is one of each
        taken, given = ("", "") if form == "litert" else (f"`{INPUT}`, ", f"`{OUTPUT}`, ")
        yield f"- in: {taken}uint8 [{batch}, {sides}, {record.channels}], 0..255, {faces}; within, they are"
        yield f"  {steps}"
        yield f"- out: {given}float32 [{batch}, {len(record.classes)}], softmax of the logits over the temperature"
        yield f"  {_temperature(record)}"
        yield f"- views averaged within: {record.tta}"
    else:
        yield f"- faces are to be {steps}"
        yield f"- logits are to be divided by the temperature {_temperature(record)} before the softmax; views averaged: {record.tta}"
    yield f"- other images than square ones: {fields['resize_mode']} to {record.side_px} px"
    yield "- all of this also stands in the file, as JSON under `fer_ignite`"


def _own_limits(record: ExportMetadata, check: Mapping[str, Any]) -> str:
    lines = []
    if str(record.origin["data"].get("source", "")).startswith("demo:"):
        lines.append(
            "- **Trained on drawn faces: good for trying things out, useless on photographs.**"
        )
    known = {
        name: row["recall"]
        for name, row in (check["recall"] or {}).items()
        if row["recall"] is not None
    }
    if known:
        worst = min(known, key=lambda name: known[name])
        lines.append(
            f"- Weakest on {worst}: of its validation faces it recognises {100 * known[worst]:.0f} % "
            f"({check['recall'][worst]['faces']} faces)."
        )
    return "".join(f"\n{line}" for line in lines)


def _data(record: ExportMetadata, config: Mapping[str, Any]) -> Iterator[str]:
    data = record.origin["data"]
    yield f"- source: {data.get('source', 'not recorded')}"
    if data.get("counts"):
        yield "- faces: " + ", ".join(f"{split} {count}" for split, count in data["counts"].items())
    if config.get("votes"):
        yield f"- labels: by votes (FER+), {config.get('vote_mode')}"
    yield f"- fingerprint of the content: `{data.get('fingerprint', 'not recorded')}`"


def _figures(
    record: ExportMetadata, check: Mapping[str, Any], *, summary: Mapping[str, Any]
) -> Iterator[str]:
    rows = [(split, summary[split]) for split in ("val", "test") if split in summary]
    if rows:
        yield "The run's own scores of this checkpoint; val chose the epoch, test was scored once at the end."
        yield ""
        yield "| split | faces | accuracy, % | 95 % interval | UAR, % | macro F1, % | views |"
        yield "|---|---|---|---|---|---|---|"
        for split, row in rows:
            ends = [f"{100 * end:.1f}" for end in row.get("accuracy_interval", ())]
            yield (
                f"| {split} | {row['n']} | {100 * row['accuracy']:.2f} | {' to '.join(ends) or '-'} | "
                f"{100 * row['uar']:.2f} | {100 * row['macro_f1']:.2f} | {row['tta']} |"
            )
        yield ""
    what = (
        "drawn faces, which say that the arithmetic agrees and nothing about accuracy"
        if check["drawn"]
        else "validation faces"
    )
    yield f"This file against the checkpoint in fp32, views {record.tta}, on {check['n']} {what} ({_short(check['source'])}):"
    yield ""
    yield f"- largest difference of a probability: {check['largest_difference']:.2g}"
    yield f"- equal decisions: {100 * check['equal_decisions']:.2f} %"
    if check["accuracy"]:
        found = check["accuracy"]
        yield (
            f"- accuracy: checkpoint {100 * found['checkpoint']:.2f} %, this file {100 * found['export']:.2f} %, difference "
            f"{100 * found['difference']:+.2f} points"
        )
    if check["recall"]:
        yield ""
        yield "| expression | validation faces | recognised by this file, % |"
        yield "|---|---|---|"
        for name, row in check["recall"].items():
            share = "-" if row["recall"] is None else f"{100 * row['recall']:.1f}"
            yield f"| {name} | {row['faces']} | {share} |"


def _training(record: ExportMetadata, configs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    origin, several = record.origin, len(configs) > 1
    for number, config in enumerate(configs, 1):
        settings = [f"{name} {config[name]}" for name in _SETTINGS if config.get(name) is not None]
        yield f"- settings{f' of network {number}' if several else ''}: {', '.join(settings)}"
    # Of an ensemble the record has the first checkpoint's.
    which = (
        "" if several else f"checkpoint: {origin['kind']}, iteration {origin.get('iteration')}, "
    )
    yield f"- {which}digest of the weights `{origin['weights_sha256']}`"
    yield "- versions: " + ", ".join(
        f"{name} {version}" for name, version in origin["versions"].items()
    )


def _short(source: str) -> str:
    # A card is published, and where the data lies on this machine is private.
    return source.rstrip("/").rsplit("/", 1)[-1]


def _temperature(record: ExportMetadata) -> str:
    return "1 (not calibrated)" if record.temperature == 1 else f"{record.temperature:.4f}"
