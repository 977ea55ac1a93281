"""Settings of processes, machines and devices."""

from typing import Literal

from pydantic import model_validator

from fer_ignite.config.fields import Integers, Seconds, SettingsGroup, setting

__all__ = ["LaunchSettings"]


class LaunchSettings(SettingsGroup):
    """Group Launch of the configuration; a field is a flag, its description the help text."""

    nproc: int | None = setting(
        None,
        "Processes on this machine; not given under torchrun and srun, which start them. [default: 1]",
        ge=1,
    )
    nnodes: int = setting(1, "Machines.", ge=1)
    node_rank: int = setting(0, "This machine's number, from 0.", ge=0)
    master_addr: str | None = setting(None, "Address of machine 0.")
    master_port: int | None = setting(None, "Port on machine 0.", ge=1, le=65535)
    device: Literal["auto", "cpu", "cuda", "mps"] = setting(
        "auto", "Device; auto = CUDA, else MPS, else the CPU."
    )
    gpus: Integers | None = setting(None, "GPUs to use, e.g. 0,2.")
    threads: int | None = setting(
        None, "CPU threads per process. [default: cores over processes]", ge=1, le=1024
    )
    start_method: Literal["spawn", "forkserver", "fork"] = setting("spawn", "How processes start.")
    dist_timeout: Seconds = setting(
        300.0, "Longest wait of one process for the others.", unit="s", gt=0
    )
    sync_bn: bool = setting(False, "Batch statistics over all processes (GPUs).", structural=True)

    @property
    def starts_processes(self) -> bool:
        """Whether the run is in processes that this program starts; those of torchrun and srun are there already."""
        return (self.nproc or 1) * self.nnodes > 1

    @model_validator(mode="after")
    def _node_is_one_of_all(self) -> "LaunchSettings":
        if self.node_rank >= self.nnodes:
            raise ValueError(
                f"node_rank: {self.node_rank} with nnodes {self.nnodes}; allowed are 0 to {self.nnodes - 1}"
            )
        return self
