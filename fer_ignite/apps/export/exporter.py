"""Export of a checkpoint: written to a temporary file, compared with the checkpoint, then renamed."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fer_ignite.apps.export.compare import compare_outputs, predict_with_export, refuse_disagreement
from fer_ignite.apps.export.graph_formats import onnx_bytes, program_bytes
from fer_ignite.apps.export.inference_module import InferenceModule
from fer_ignite.apps.export.litert_format import litert_bytes
from fer_ignite.apps.export.model_card import render_model_card
from fer_ignite.apps.export.openvino_format import openvino_bytes
from fer_ignite.apps.export.quantize import quantize_static
from fer_ignite.apps.export.reference_images import Reference, reference_faces
from fer_ignite.apps.export.weight_formats import safetensors_bytes, state_dict_bytes
from fer_ignite.checkpoint.atomic_io import (
    is_special_file,
    shown,
    storage_errors,
    sync_folder,
    write_durably,
    write_text_durably,
)
from fer_ignite.checkpoint.format import state_digest
from fer_ignite.checkpoint.paths import ensemble_members
from fer_ignite.errors import ConfigError
from fer_ignite.inference.loaded_model import LoadedModel, find_run_dir, load_model
from fer_ignite.inference.metadata import ExportMetadata
from fer_ignite.inference.onnx import refuse_onnx
from fer_ignite.inference.request import EvaluateRequest
from fer_ignite.stores.store import is_url

__all__ = ["FORMATS", "ExportRequest", "export_checkpoint"]

FORMATS: Mapping[str, str] = {
    "onnx": ".onnx",
    "torch-export": ".pt2",
    "openvino": ".xml",
    "litert": ".tflite",
    "safetensors": ".safetensors",
    "state-dict": ".weights.pt",
}
"""Formats and the endings of their files."""


@dataclass(frozen=True)
class ExportRequest:
    """Options of ``export``; None means the checkpoint's own.

    Args:
        form: onnx, torch-export, openvino, litert, safetensors or state-dict.
        out: the file; None: beside the checkpoint, under its name.
        half: kernels and matrices stored as fp16.
        int8: ONNX only: quantised, calibrated on ``calibration_faces`` of the train split.
        data, votes: validation faces to check on.
        limit: at most this many of them.
        model: the user's network class again, where the run had one.
    """

    checkpoint: str
    form: str = "onnx"
    out: str | None = None
    half: bool = False
    int8: bool = False
    tta: str | None = None
    data: str | None = None
    votes: str | None = None
    limit: int = 5000
    calibration_faces: int = 512
    model: str | None = None
    cache: str | None = None
    exist_ok: bool = False
    quiet: bool = False

    @property
    def weights(self) -> str:
        return "int8" if self.int8 else "fp16" if self.half else "fp32"


def export_checkpoint(checkpoint: str | Path, **options: Any) -> dict[str, Any]:
    """Writes a checkpoint as one file for use elsewhere, checks that file against the checkpoint, writes its card.

    Args:
        options: of :class:`ExportRequest`.
    Returns:
        ``file`` and its ``sha256``, ``files`` [{file, bytes, sha256}: OpenVINO has two], ``bytes`` of all of them, ``card, format,
        weights, classes, temperature, tta, check`` (see :func:`fer_ignite.apps.export.compare.compare_outputs`), ``notes``.
    Raises:
        ConfigError: options that don't go together, a missing library, a file that is there already.
        CheckpointError, DataError: the checkpoint or the data can't be used.
        StorageError: writing failed; nothing is left behind.
        FerError: the file's answers are not the checkpoint's; it is not kept.
    """
    request = ExportRequest(str(checkpoint), **options)
    refuse_onnx(request.checkpoint, "export")
    _check_request(request)
    # On the CPU in fp32: what the file computes is to be compared with that, not with a device's faster arithmetic.
    network = load_model(request.checkpoint, device="cpu", model=request.model, precision="fp32")
    network.require_images()
    target = _target(request)
    asked = EvaluateRequest(
        request.checkpoint,
        data=request.data,
        votes=request.votes,
        cache=request.cache,
        quiet=request.quiet,
    )
    # Read before anything is written: data that can't be used leaves no file.
    reference = reference_faces(network, asked, limit=request.limit)
    record = build_metadata(network, tta=request.tta, weights=request.weights)
    parts = _content(request, network, record=record, reference=reference)
    check = _write_checked(
        target, parts, request=request, network=network, record=record, reference=reference
    )
    card = card_path(target)
    summary = _summary_of(network, request.checkpoint)
    write_text_durably(
        card,
        render_model_card(
            record,
            form=request.form,
            file=target.name,
            sizes=[len(content) for content in parts.values()],
            check=check,
            configs=[member.checkpoint["config"] for member in network.networks],
            summary=summary,
            notes=reference.published,
        ),
    )
    files = [
        {"file": str(path), "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for path, content in zip(_named(target, parts), parts.values(), strict=True)
    ]
    return {
        "file": str(target),
        "files": files,
        "card": str(card),
        "format": request.form,
        "weights": record.weights,
        "bytes": sum(map(len, parts.values())),
        "sha256": files[0]["sha256"],
        "classes": list(record.classes),
        "temperature": record.temperature,
        "tta": record.tta,
        "check": check,
        "notes": list(reference.notes),
    }


def card_path(target: Path) -> Path:
    """Where an export's card lies."""
    return target.with_name(f"{target.name}.md")


def build_metadata(
    network: LoadedModel, *, tta: str | None = None, weights: str = "fp32"
) -> ExportMetadata:
    """What an exported file is to say about itself."""
    checkpoint, config = network.checkpoint, network.config
    data = dict(checkpoint.get("data") or {})
    if "source" in data:
        data["source"] = _without_folders(str(data["source"]))
    record = ExportMetadata(
        classes=network.classes,
        preprocessing=dict(checkpoint["preprocessing"]),
        temperature=network.temperature,
        tta=tta or config.tta,
        weights=weights,
        network={
            **({"members": len(network.members)} if network.members else {}),
            "model": config.model,
            "model_args": dict(config.model_args),
            "norm": config.norm,
            "dropout": config.dropout,
        },
        origin={
            "kind": checkpoint["kind"],
            "iteration": (checkpoint.get("trainer") or {}).get("iteration"),
            "weights_sha256": state_digest(network.model.state_dict()),
            "data": data,
            "versions": dict(checkpoint.get("versions") or {}),
        },
    )
    # as its readers will have it
    return ExportMetadata.from_json(record.to_json(), name="the checkpoint")


def _without_folders(source: str) -> str:
    # Where the data lay on the training's machine is private; its name and fingerprint are not.
    return (
        source if source.startswith(("demo:", "kaggle:")) else source.rstrip("/").rsplit("/", 1)[-1]
    )


def _check_request(request: ExportRequest) -> None:
    if len(ensemble_members(request.checkpoint)) > 1 and request.form in (
        "safetensors",
        "state-dict",
    ):
        raise ConfigError(
            f"--format {request.form} holds the weights of one network, and {request.checkpoint} is an ensemble; choose onnx, "
            "torch-export, openvino or litert, or export each checkpoint by itself."
        )
    if request.form not in FORMATS:
        raise ConfigError(
            f"--format {request.form!r} is unknown; allowed are {', '.join(FORMATS)}."
        )
    if request.int8 and request.form != "onnx":
        raise ConfigError(
            f"--int8 is for --format onnx, not {request.form}; --half makes every format but litert half as large."
        )
    if request.half and request.form == "litert":
        raise ConfigError("--half is not for --format litert, which is written in fp32 only.")
    if request.out is None and is_url(request.checkpoint):
        raise ConfigError(
            f"{request.checkpoint} lies in an object store, beside which no export is written; name its file here with --out."
        )
    if request.int8 and request.half:
        raise ConfigError("--int8 and --half contradict each other; keep one of them.")


def _target(request: ExportRequest) -> Path:
    several = len(ensemble_members(request.checkpoint)) > 1
    source = Path("ensemble.pt" if several else request.checkpoint)
    mark = "" if request.weights == "fp32" else f"-{request.weights}"
    # Of a run's folder the whole name: what follows a dot in it is no ending.
    name = source.name if source.is_dir() else source.stem
    beside = source.with_name(f"{name}{mark}{FORMATS[request.form]}")
    target = beside if request.out is None else Path(request.out)
    folder = target.absolute().parent
    if target.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigError(
            f"--out: {shown(target)} can't be written: no folder of yours to write; name another file."
        )
    if request.form == "onnx" and target.suffix.lower() != ".onnx":
        raise ConfigError(
            f"--out: {shown(target)} must end in .onnx, by which `fer-ignite predict` knows it."
        )
    if request.form == "torch-export" and target.suffix != ".pt2":
        raise ConfigError(f"--out: {shown(target)} must end in .pt2, as torch.export asks.")
    if request.form == "openvino" and target.suffix != ".xml":
        raise ConfigError(f"--out: {shown(target)} must end in .xml, as OpenVINO asks.")
    if request.form == "litert" and target.suffix != ".tflite":
        raise ConfigError(f"--out: {shown(target)} must end in .tflite, as LiteRT asks.")
    if target.exists() and source.exists() and target.samefile(source):
        raise ConfigError(f"--out: {shown(target)} is the checkpoint itself; name another file.")
    files = [target, card_path(target)]
    files += [target.with_suffix(".bin")] if request.form == "openvino" else []
    if special := [path for path in files if is_special_file(path)]:
        raise ConfigError(
            f"--out: {shown(special[0])} is a pipe or a device; an export is checked before it gets its name, so name a file."
        )
    there = [path for path in files if path.exists()]
    if there and not request.exist_ok:
        raise ConfigError(
            f"{shown(there[0])} exists; pass --exist-ok to replace it, or name another file with --out."
        )
    return target


def _content(
    request: ExportRequest, network: LoadedModel, *, record: ExportMetadata, reference: Reference
) -> dict[str, bytes]:
    """The files' contents by their endings, the named file's first."""
    main = FORMATS[request.form]
    if request.form in ("safetensors", "state-dict"):
        to_bytes = safetensors_bytes if request.form == "safetensors" else state_dict_bytes
        return {main: to_bytes(network.model.state_dict(), record, half=request.half)}
    if request.form == "litert":
        return {main: litert_bytes(network.model, record)}
    module = InferenceModule(network.model, record).eval()
    if request.form == "torch-export":
        return {main: program_bytes(module, record, half=request.half)}
    if request.form == "openvino":
        plain = onnx_bytes(module, replace(record, weights="fp32"), half=False)
        graph, weights = openvino_bytes(plain, record, half=request.half)
        return {main: graph, ".bin": weights}
    if not request.int8:
        return {main: onnx_bytes(module, record, half=request.half)}
    # From train: ranges that were fitted to val would make the figures of the check too good.
    faces_NHWC = reference.train_faces(request.calibration_faces, seed=network.config.seed)
    plain = onnx_bytes(module, replace(record, weights="fp32"), half=False)
    return {main: quantize_static(plain, faces_NHWC, record=record)}


def _named(target: Path, parts: Mapping[str, bytes]) -> list[Path]:
    """The files of an export, the named one first."""
    return [target.with_suffix(ending) if place else target for place, ending in enumerate(parts)]


def _write_checked(
    target: Path,
    parts: Mapping[str, bytes],
    *,
    request: ExportRequest,
    network: LoadedModel,
    record: ExportMetadata,
    reference: Reference,
) -> dict[str, Any]:
    """The file's check; the files have their names only if it passed."""
    named = _named(target, parts)
    # The ending stays: by it the readers know the format, and OpenVINO finds the .bin file.
    drafts = [path.with_name(f".unchecked-{path.name}") for path in named]
    unchecked = drafts[0]
    try:
        for draft, path, content in zip(drafts, named, parts.values(), strict=True):
            write_durably(draft, content, named=path)
        # From the disk, as a user opens it: what the converter and the writer did is part of the check.
        answers, written = predict_with_export(unchecked, request.form, network=network)
        assert written == record, "the record inside is not the one that was given"
        check = compare_outputs(network, answers, reference=reference, tta=record.tta)
        refuse_disagreement(check, exact=record.weights == "fp32")
        with storage_errors(target):
            # the named file last: where it is, what it needs is there too
            for draft, path in reversed(list(zip(drafts, named, strict=True))):
                os.replace(draft, path)
            sync_folder(target.parent)
    finally:
        for draft in drafts:
            draft.unlink(missing_ok=True)
    return check


def _summary_of(network: LoadedModel, path: str) -> dict[str, Any]:
    """The run's summary where its figures are this checkpoint's: its best one, in its folder, at its end."""
    folder = find_run_dir(path)
    summary = {} if folder is None else folder.read_summary()
    trainer = network.checkpoint.get("trainer") or {}
    epoch = trainer.get("iteration", 0) / max(1, trainer.get("epoch_length") or 1)
    # Resume points and averages are other weights than those that the summary's figures belong to.
    is_it = (
        network.checkpoint["kind"] == "best" and (summary.get("best") or {}).get("epoch") == epoch
    )
    return summary if is_it else {}
