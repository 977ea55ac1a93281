"""``fer-ignite info``: installation, or content of a checkpoint, a dataset cache or a run."""

import json
from pathlib import Path
from typing import Any

import click

from fer_ignite.errors import ConfigError

__all__ = ["command"]


@click.command("info", short_help="Versions and devices; what a checkpoint, pack or run holds.")
@click.argument("path", required=False)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def command(path: str | None, as_json: bool) -> int:
    """Versions, devices and networks; or, with PATH, what that checkpoint, pack or run folder holds."""
    values = installation() if path is None else describe_path(Path(path))
    click.echo(json.dumps(values, indent=2, default=str) if as_json else "\n".join(_lines(values)))
    return 0


def installation() -> dict[str, Any]:
    """Versions of the libraries, devices, networks and recipes."""
    import torch

    from fer_ignite.distributed.machine import this_machine
    from fer_ignite.models.registry import available_models
    from fer_ignite.recipes import recipe_names
    from fer_ignite.training.session import versions
    from fer_ignite.training.step import resolve_precision

    machine = this_machine()
    gpus = [torch.cuda.get_device_name(index) for index in range(machine.cuda_devices)]
    return {
        "versions": versions(),
        "cores": machine.cores,
        "gpus": gpus,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "precision on the CPU": resolve_precision("auto", torch.device("cpu")),
        "networks": available_models(),
        "recipes": recipe_names(),
    }


def describe_path(path: Path) -> dict[str, Any]:
    """What a checkpoint, a pack or a run folder holds.

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
    raise ConfigError(f"{path} is no checkpoint, pack or run folder; name one of these.")


def _checkpoint(path: Path) -> dict[str, Any]:
    from fer_ignite.checkpoint.format import load_checkpoint, state_digest

    content = load_checkpoint(path)
    trainer = content.get("trainer", {})
    return {
        "kind": content["kind"],
        "network": content["config"]["model"],
        "parameters": sum(
            tensor.numel()
            for name, tensor in content["model"].items()
            if "running" not in name and tensor.ndim
        ),
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


def _run(path: Path) -> dict[str, Any]:
    from fer_ignite.checkpoint.run_dir import RunDir

    folder = RunDir(path)
    summary = folder.read_summary() or None
    history = list(folder.read_history())
    return {
        "epochs written": len(history),
        "last epoch": history[-1] if history else None,
        "checkpoints": sorted(file.name for file in folder.checkpoints.glob("*.pt")),
        "looks at test": folder.test_evaluations(),
        "summary": summary,
    }


def _lines(values: dict[str, Any], indent: str = "") -> list[str]:
    lines = []
    for name, value in values.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", *_lines(value, indent + "  ")]
        elif isinstance(value, (list, tuple)):
            lines.append(f"{indent}{name}: {', '.join(map(str, value)) or '-'}")
        else:
            lines.append(f"{indent}{name}: {value}")
    return lines
