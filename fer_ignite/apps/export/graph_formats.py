"""Formats that hold the computation: ONNX and torch.export."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fer_ignite.apps.export.half_precision import halve_initializers, halve_module
from fer_ignite.errors import ConfigError, first_line
from fer_ignite.imports import optional_library
from fer_ignite.inference.metadata import INPUT, KEY, OUTPUT, ExportMetadata

__all__ = ["EXTRA_FILE", "OPSET", "onnx_bytes", "open_program", "program_bytes"]

OPSET = 20  # the first in which Resize is antialiased (18), rounded up to the exporter's own of torch 2.10
EXTRA_FILE = f"{KEY}.json"
_DYNAMIC = {0: "batch", 1: "height", 2: "width"}
_LARGEST_BYTES = (2 << 30) - (1 << 20)  # of a protobuf message


def onnx_bytes(module: nn.Module, record: ExportMetadata, *, half: bool) -> bytes:
    """An ONNX file of the module, the record in its metadata.

    Raises:
        ConfigError: a library is missing, the network can't be traced, or is too large for one file.
    """
    for name in ("onnx", "onnxscript"):
        optional_library(name, extra="export", purpose="--format onnx")
    if sum(tensor.nbytes for tensor in module.state_dict().values()) > _LARGEST_BYTES:
        raise ConfigError(
            "--format onnx: the network has more than 2 GiB of weights, one file's limit; use safetensors."
        )
    # Traced here, not by the exporter: one tracing for both formats, and one sentence where it fails.
    program = _traced(module, record, form="onnx")
    with _quiet():
        model = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        ).model_proto  # type: ignore[union-attr]
    _name_sizes(model)
    _forget_origins(model)
    if half:
        halve_initializers(model)
    describe(model, record)
    return bytes(model.SerializeToString())


def describe(model: Any, record: ExportMetadata) -> None:
    """Puts the record into the metadata of an ``onnx.ModelProto``, replacing an older one."""
    entries = {entry.key: entry.value for entry in model.metadata_props} | {KEY: record.to_json()}
    del model.metadata_props[:]
    for key, value in entries.items():
        model.metadata_props.add(key=key, value=value)


def program_bytes(module: nn.Module, record: ExportMetadata, *, half: bool) -> bytes:
    """A ``torch.export`` archive of the module, the record as its extra file ``fer_ignite.json``.

    Raises:
        ConfigError: the network can't be traced.
    """
    program = _traced(halve_module(module) if half else module, record, form="torch-export")
    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(program, buffer, extra_files={EXTRA_FILE: record.to_json()})
    return buffer.getvalue()


def open_program(path: Path) -> tuple[nn.Module, str]:
    """The module of an archive that this program has just written, and its record."""
    extra = {EXTRA_FILE: ""}
    with _quiet():
        module = torch.export.load(path, extra_files=extra).module()
    return module, extra[EXTRA_FILE]


def _traced(
    module: nn.Module, record: ExportMetadata, *, form: str
) -> torch.export.ExportedProgram:
    # Sides that equal no other size of the graph: equal ones would be taken for the same by necessity.
    side = record.side_px
    # A batch of 3, as torch.export takes sizes of 0 and 1 for constants, also where they are declared free.
    example = torch.zeros(3, side + 2, side + 5, record.channels, dtype=torch.uint8)
    sizes = {axis: torch.export.Dim(name) for axis, name in _DYNAMIC.items()}
    try:
        with _quiet(), torch.no_grad():
            program = torch.export.export(module, (example,), dynamic_shapes=(sizes,))
    except (
        Exception
    ) as error:  # the tracer's errors have no common base, and a user's network may raise anything
        reason = first_line(error)
        raise ConfigError(
            f"--format {form}: the network {record.network.get('model')} can't be traced ({reason}); "
            "use --format safetensors or state-dict, which hold its weights alone."
        ) from None
    for (
        node
    ) in program.graph.nodes:  # where on this machine each line of the source lies is private
        # torch.export.save and the ONNX exporter would write them into the file.
        node.meta.pop("stack_trace", None)
    return program


def _name_sizes(model: Any) -> None:
    """Axes by name on both ends; within, the exporter's guesses at shapes only hinder later tools."""
    graph = model.graph
    for value in (graph.input[0], graph.output[0]):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value"):
                dim.dim_param = _DYNAMIC[axis]
    del graph.value_info[:]


def _forget_origins(model: Any) -> None:
    # The exporter keeps stack traces in them, with this machine's paths.
    for part in (
        model.graph,
        *model.graph.node,
        *model.graph.input,
        *model.graph.output,
        *model.graph.initializer,
    ):
        del part.metadata_props[:]
        part.doc_string = ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters tell of their own deprecated parts and of every pass; a failure is an exception anyway."""
    loggers = [
        logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
