"""``fer-ignite info``: installation, or content of a checkpoint, a dataset cache or a run."""

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from fer_ignite.cli.shared_options import json_option
from fer_ignite.cli.values import loading_torch
from fer_ignite.errors import ConfigError, FerError
from fer_ignite.stores.store import is_url
from fer_ignite.terminal import program_name

__all__ = ["command"]


@click.command(
    "info", short_help="Versions and devices; what a checkpoint, dataset cache or run holds."
)
@click.argument("path", required=False)
@click.option(
    "--full", is_flag=True, help="Also what torch finds: devices, precision, all networks."
)
@json_option
def command(path: str | None, full: bool, *, as_json: bool) -> int:
    """Versions and machine; or, with PATH, what that checkpoint, dataset cache or run folder holds."""
    if path is None:
        values = {**installation(), **(devices_and_networks() if full else {})}
    else:
        values = describe_path(_local(path))
    click.echo(json.dumps(values, indent=2, default=str) if as_json else "\n".join(_lines(values)))
    if path is None and not full and not as_json:
        click.echo(f"{program_name()} info --full shows devices and all networks.")
    return 0


def _local(path: str) -> Path:
    if not is_url(path):
        return Path(path)
    from fer_ignite.checkpoint.remote_files import local_checkpoint

    return local_checkpoint(path)


def installation() -> dict[str, Any]:
    """Versions of the libraries, the machine and the recipes; imports no torch, which takes seconds."""
    from importlib.metadata import PackageNotFoundError, version

    import fer_ignite
    from fer_ignite.distributed.machine import describe_processor
    from fer_ignite.recipes import recipe_names

    versions = {"fer_ignite": fer_ignite.__version__, "python": platform.python_version()}
    for name in ("torch", "torchvision", "pytorch-ignite", "numpy"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return {"versions": versions, "machine": describe_processor(), "recipes": recipe_names()}


def devices_and_networks() -> dict[str, Any]:
    """What torch sees of the machine, and the networks that ``--model`` takes."""
    with loading_torch():
        import torch

        from fer_ignite.distributed.machine import detect_machine
        from fer_ignite.models.registry import available_models
        from fer_ignite.training.precision import resolve_precision

    machine = detect_machine()
    return {
        "gpus": [torch.cuda.get_device_name(index) for index in range(machine.cuda_devices)],
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "precision on the CPU": resolve_precision("auto", torch.device("cpu")),
        "networks": available_models(),
    }


def describe_path(path: Path) -> dict[str, Any]:
    """Content of a checkpoint, a dataset cache or a run folder.

    Raises:
        ConfigError: it is none of these.
    """
    from fer_ignite.data.cache.format import is_cache, open_cache

    if path.is_file():
        return _checkpoint(path)
    if path.is_dir() and is_cache(path):
        return open_cache(path).manifest
    if (path / "config.yaml").exists():
        return _run(path)
    raise ConfigError(f"{path} is no checkpoint, dataset cache or run folder; name one of these.")


def _checkpoint(path: Path) -> dict[str, Any]:
    from fer_ignite.checkpoint.format import load_checkpoint, state_digest

    content = load_checkpoint(path)
    trainer = content.get("trainer", {})
    return {
        "kind": content["kind"],
        "network": content["config"]["model"],
        "parameters": _parameters(path, content),
        "classes": content["classes"],
        "preprocessing": content["preprocessing"],
        "iteration": trainer.get("iteration"),
        "outcome": content.get("outcome", "-"),
        "best": content.get("best"),
        "data": content["data"],
        "versions": content["versions"],
        "ema": content.get("ema") is not None,
        "weights_sha256": state_digest(content["model"]),
    }


def _parameters(path: Path, content: Mapping[str, Any]) -> int:
    """Parameters of the network, as the run's header has them."""
    from fer_ignite.inference.loaded_model import load_model
    from fer_ignite.models.summary import parameter_count

    try:
        return parameter_count(load_model(path, device="cpu", collated=True).model)
    except FerError:
        # The user's network, which is not imported on a file's word: its state dict without the batch statistics.
        return sum(
            tensor.numel()
            for name, tensor in content["model"].items()
            if "running" not in name and tensor.is_floating_point()
        )


def _run(path: Path) -> dict[str, Any]:
    from fer_ignite.checkpoint.run_dir import RunDir

    folder = RunDir(path)
    summary = folder.read_summary() or None
    history = list(folder.read_history())
    return {
        "epochs written": len(history),
        "last epoch": history[-1] if history else None,
        "checkpoints": sorted(file.name for file in folder.checkpoints.glob("*.pt")),
        "test evaluations": folder.test_evaluations(),
        "summary": summary,
    }


def _lines(values: dict[str, Any], indent: str = "") -> list[str]:
    lines = []
    for name, value in values.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", *_lines(value, indent + "  ")]
        elif name in ("gpus", "networks", "recipes"):
            lines += [f"{indent}{name}:", *(f"{indent}  {entry}" for entry in value or "-")]
        elif isinstance(value, (list, tuple)):
            lines.append(f"{indent}{name}: {', '.join(map(str, value)) or '-'}")
        else:
            lines.append(f"{indent}{name}: {value}")
    return lines
