"""Launch plan from flags, environment and machine, as a pure function.

Precedence, from the strongest: torchrun's variables (``--nproc`` beside them is refused), a Slurm step of several tasks
(``srun``; ``--nproc`` beside it is refused), ``--nproc`` (also in an interactive ``salloc`` or ``sbatch`` shell, whose
SLURM_* variables are then ignored), one process.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from fer_ignite.errors import ConfigError

__all__ = [
    "LaunchPlan",
    "LaunchSpec",
    "Machine",
    "choose_device",
    "first_host",
    "foreign_variables",
    "make_plan",
    "process_count_warning",
    "slurm_as_torchrun",
    "threads_per_process",
]

Device = Literal["auto", "cpu", "cuda", "mps"]

_RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
_PROCESSES_PER_CORE = 8
_DEVICE = re.compile(r"(?P<kind>auto|cpu|cuda|mps)(?::(?P<number>\d{1,4}))?")


@dataclass(frozen=True)
class LaunchSpec:
    """How a run is to be started, as given on the command line or in Python.

    Args:
        nproc: processes on this node; None leaves it to the environment, else one.
        gpus: CUDA device numbers to use, in the order of the local ranks; None for all.
        threads: CPU threads per process; None shares the cores out.
        start_method: spawn, forkserver or fork.
        dist_timeout_s: seconds after which a collective operation without an answer ends the run.
    """

    nproc: int | None = None
    nnodes: int = 1
    node_rank: int = 0
    master_addr: str | None = None
    master_port: int | None = None
    device: Device = "auto"
    gpus: tuple[int, ...] | None = None
    threads: int | None = None
    start_method: str = "spawn"
    dist_timeout_s: float = 300


@dataclass(frozen=True)
class Machine:
    """The numbers of this machine that a plan depends on."""

    cores: int
    cuda_devices: int
    has_mps: bool = False
    system: str = "linux"


@dataclass(frozen=True)
class LaunchPlan:
    """What will be started here.

    Args:
        mode: single (in this process), spawn (children of it), joined (to a group that another launcher has started).
        nproc: processes on this node.
        threads: CPU threads of each.
        gpu_names: the chosen GPUs as CUDA_VISIBLE_DEVICES calls them, out of those that were visible before.
    """

    mode: Literal["single", "spawn", "joined"]
    device: Literal["cpu", "cuda", "mps"]
    nproc: int
    threads: int
    spec: LaunchSpec
    warning: str | None = None
    gpu_names: tuple[str, ...] = ()

    @property
    def backend(self) -> Literal["nccl", "gloo"]:
        return "nccl" if self.device == "cuda" else "gloo"

    @property
    def environment(self) -> dict[str, str]:
        """Variables that the processes need before CUDA or a process group is touched."""
        variables: dict[str, str] = {}
        # A single process selects its GPU by number (select_device) and needs no variable.
        if self.device == "cuda" and self.spec.gpus is not None and self.mode != "single":
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpu_names)
        elif self.device == "cpu" and self.mode != "single":
            # Ignite calls cuda.set_device(local_rank) wherever CUDA is visible, gloo or not (native.py:136).
            variables["CUDA_VISIBLE_DEVICES"] = ""
        return variables


def make_plan(spec: LaunchSpec, environ: Mapping[str, str], *, machine: Machine) -> LaunchPlan:
    """Decide what to start.

    Raises:
        ConfigError: the flags contradict each other, the environment or the machine.
    """
    _check_numbers(spec)
    cuda_devices = _visible_cuda_devices(spec, machine)
    device = choose_device(spec.device, cuda_devices=cuda_devices, has_mps=machine.has_mps)
    plan = LaunchPlan(
        mode="single",
        device=device,
        nproc=1,
        threads=1,
        spec=spec,
        gpu_names=_gpu_names(spec, environ),
    )
    cores = machine.cores
    found = _foreign_launcher(environ)
    launcher = None
    if found is not None:
        launcher, local_processes = found
        if spec.nproc is not None or spec.nnodes != 1:
            flag = "--nproc" if spec.nproc is not None else "--nnodes"
            raise ConfigError(
                f"{flag} was given inside {launcher}, which has already started the processes: "
                f"leave {flag} out, or start the command without {launcher}."
            )
        plan = replace(plan, mode="joined", nproc=local_processes)
        if launcher == "srun" and "SLURM_CPUS_PER_TASK" in environ:
            # Slurm binds a task to its own cores: the ones that it sees are not the ones that all tasks share.
            cores = int(environ["SLURM_CPUS_PER_TASK"]) * local_processes
    # One process on each of several nodes is spawned too: it needs a group.
    elif spec.nproc not in (None, 1) or spec.nnodes > 1:
        plan = replace(plan, mode="spawn", nproc=spec.nproc or 1)
    if plan.mode != "single" and ":" in device:
        raise ConfigError(
            f"device={device!r} names one device, and several processes are started, each with its own: name the kind alone, "
            f"device={device.partition(':')[0]!r}, and choose the GPUs with CUDA_VISIBLE_DEVICES."
        )
    warning = process_count_warning(
        plan.nproc, device=device, cores=cores, cuda_devices=cuda_devices, launcher=launcher
    )
    if plan.mode == "spawn" and machine.system != "linux":
        untested = (
            f"Several processes on one machine are tested on Linux only, this is {machine.system}."
        )
        warning = f"{warning} {untested}" if warning else untested
    threads = threads_per_process(spec.threads, cores=cores, nproc=plan.nproc)
    return replace(plan, threads=threads, warning=warning)


def choose_device(
    device: Device, *, cuda_devices: int, has_mps: bool
) -> Literal["cpu", "cuda", "mps"]:
    """The device that ``auto`` stands for, or the one requested if the machine has it.

    Raises:
        ConfigError: the machine doesn't have it, or there is no such device.
    """
    # From Python a number may stand behind it, as in torch.device's words.
    found = _DEVICE.fullmatch(str(device))
    if found is None:
        raise ConfigError(
            f"device={device!r} is unknown; allowed are {', '.join(get_args(Device))}, and cuda:0 and so on."
        )
    kind, number = found["kind"], found["number"]
    if device == "auto":
        return "cuda" if cuda_devices else "mps" if has_mps else "cpu"
    if kind == "cuda" and not cuda_devices:
        raise ConfigError(
            "--device cuda was requested, but no CUDA device is visible: use --device cpu."
        )
    if kind == "cuda" and int(number or 0) >= cuda_devices:
        raise ConfigError(
            f"device={device!r}: {cuda_devices} CUDA devices are visible, numbered from 0; name one of these."
        )
    if kind == "mps" and not has_mps:
        raise ConfigError(
            "--device mps was requested, but this machine has no MPS device: use --device cpu."
        )
    return device


def threads_per_process(threads: int | None, *, cores: int, nproc: int) -> int:
    """CPU threads of one process: what was requested, else an equal share of the cores, at least one.

    It is the same under every launcher, because the number of threads changes the last bits of a sum.
    """
    return threads if threads is not None else max(1, cores // nproc)


def process_count_warning(
    nproc: int, *, device: str, cores: int, cuda_devices: int, launcher: str | None = None
) -> str | None:
    """One sentence if ``nproc`` is more than sensible, None if it is fine.

    Args:
        launcher: torchrun or srun where that has started the processes; None: they are ours.
    Raises:
        ConfigError: ``nproc`` can't work on this machine.
    """
    flag = {"torchrun": "torchrun --nproc-per-node", "srun": "srun --ntasks-per-node"}.get(
        launcher or "", "--nproc"
    )
    # Refused, not warned about: NCCL takes no two processes on one GPU.
    if device == "cuda" and nproc > cuda_devices:
        raise ConfigError(
            f"{flag} {nproc} needs {nproc} CUDA devices, {cuda_devices} visible: "
            f"use {flag} {cuda_devices}, or --device cpu."
        )
    if device == "mps" and nproc > 1:
        raise ConfigError(
            f"{flag} {nproc}: an MPS device serves one process, use {flag} 1 or --device cpu."
        )
    if device == "cpu" and nproc > _PROCESSES_PER_CORE * cores:
        raise ConfigError(
            f"{flag} {nproc} is more than {_PROCESSES_PER_CORE} processes on each of {cores} CPU cores: "
            f"use at most {flag} {_PROCESSES_PER_CORE * cores}, best {cores}."
        )
    if device == "cpu" and nproc > cores:
        return f"{flag} {nproc} on {cores} CPU cores: the processes share cores, which is slower than {flag} {cores}."
    return None


def foreign_variables(environ: Mapping[str, str]) -> list[str]:
    """Variables of other launchers that would mislead Ignite in processes that we start ourselves.

    Source: SLURM_JOB_ID wins over everything, RANK and LOCAL_RANK over arguments (ignite native.py:208-239).
    """
    names = {*_RANK_VARIABLES, "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK"}
    return [
        name for name in environ if name in names or name.startswith(("SLURM_", "TORCHELASTIC_"))
    ]


def slurm_as_torchrun(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that torchrun would set, for one task of a Slurm step."""
    tasks = _slurm_tasks(environ)
    nodes = int(environ.get("SLURM_STEP_NUM_NODES") or environ.get("SLURM_JOB_NUM_NODES") or 1)
    hosts = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST") or "127.0.0.1"
    return {
        "RANK": environ["SLURM_PROCID"],
        "LOCAL_RANK": environ["SLURM_LOCALID"],
        "WORLD_SIZE": str(tasks),
        "LOCAL_WORLD_SIZE": str(max(1, tasks // nodes)),
        "MASTER_ADDR": environ.get("MASTER_ADDR")
        or ("127.0.0.1" if nodes == 1 else first_host(hosts)),
        # Every task must arrive at the same port, and two jobs on one node at different ones.
        "MASTER_PORT": environ.get("MASTER_PORT")
        or str(20000 + int(environ["SLURM_JOB_ID"]) % 20000),
    }


def first_host(hosts: str) -> str:
    """The first name of a Slurm host list: ``gpu[003-007,9],head`` gives ``gpu003``."""
    # Up to the first comma outside of brackets; a name may have several: rack[1-2]node[1-4].
    match = re.match(r"[^,\[](?:[^,\[]|\[[^\]]*\])*", hosts)
    if match is None:
        raise ConfigError(
            f"SLURM_JOB_NODELIST is {hosts!r}, which names no host: set MASTER_ADDR to the first node."
        )
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", match[0])


def _check_numbers(spec: LaunchSpec) -> None:
    if spec.nproc is not None and spec.nproc < 1:
        raise ConfigError(f"--nproc is {spec.nproc}, it must be at least 1.")
    if spec.threads is not None and spec.threads < 1:
        raise ConfigError(f"--threads is {spec.threads}, it must be at least 1.")
    if not spec.dist_timeout_s > 0:
        raise ConfigError(f"--dist-timeout is {spec.dist_timeout_s} s, it must be above 0.")
    if spec.start_method not in ("spawn", "forkserver", "fork"):
        raise ConfigError(
            f"--start-method is {spec.start_method!r}: use spawn, forkserver or fork."
        )
    if spec.nnodes < 1 or not 0 <= spec.node_rank < spec.nnodes:
        raise ConfigError(
            f"--node-rank {spec.node_rank} of --nnodes {spec.nnodes}: ranks count from 0 to nnodes - 1."
        )
    if spec.nnodes > 1 and (spec.master_addr is None or spec.master_port is None):
        raise ConfigError(
            f"--nnodes {spec.nnodes} needs --master-addr and --master-port, the same on every node."
        )


def _gpu_names(spec: LaunchSpec, environ: Mapping[str, str]) -> tuple[str, ...]:
    # --gpus counts among the visible devices, which a scheduler may have named by number or UUID.
    visible = [
        name.strip() for name in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()
    ]
    return tuple(visible[gpu] if gpu < len(visible) else str(gpu) for gpu in spec.gpus or ())


def _visible_cuda_devices(spec: LaunchSpec, machine: Machine) -> int:
    if spec.gpus is None or spec.device == "cpu":
        return machine.cuda_devices
    absent = [gpu for gpu in spec.gpus if not 0 <= gpu < machine.cuda_devices]
    if not spec.gpus or absent or len(set(spec.gpus)) != len(spec.gpus):
        raise ConfigError(
            f"--gpus {','.join(map(str, spec.gpus))} was given, {machine.cuda_devices} CUDA devices are visible: "
            f"name each device once, by a number from 0 to {machine.cuda_devices - 1}."
            if machine.cuda_devices
            else f"--gpus {','.join(map(str, spec.gpus))} was given, but no CUDA device is visible: leave it out."
        )
    return len(spec.gpus)


def _foreign_launcher(environ: Mapping[str, str]) -> tuple[str, int] | None:
    present = [name for name in _RANK_VARIABLES if name in environ]
    if len(present) == len(_RANK_VARIABLES):
        return "torchrun", int(environ.get("LOCAL_WORLD_SIZE") or environ["WORLD_SIZE"])
    if present:
        absent = [name for name in _RANK_VARIABLES if name not in environ]
        raise ConfigError(
            f"The environment sets {' and '.join(present)} but not {' and '.join(absent)}: "
            "set all three, as torchrun does, or unset them and use --nproc."
        )
    if "SLURM_PROCID" in environ and "SLURM_LOCALID" in environ and _slurm_tasks(environ) > 1:
        return "srun", int(slurm_as_torchrun(environ)["LOCAL_WORLD_SIZE"])
    return None


def _slurm_tasks(environ: Mapping[str, str]) -> int:
    # A batch script without srun has SLURM_NTASKS too, but is no step; an interactive step has one task.
    if "SLURM_STEP_ID" not in environ:
        return 1
    return int(environ.get("SLURM_STEP_NUM_TASKS") or environ.get("SLURM_NTASKS") or 1)
