import pytest

from fer_ignite.distributed.resolve import (
    LaunchSpec,
    Machine,
    first_host,
    foreign_variables,
    make_plan,
    process_count_warning,
    slurm_as_torchrun,
    threads_per_process,
)
from fer_ignite.errors import ConfigError

TORCHRUN = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
SRUN = {
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
}
CPU = Machine(cores=4, cuda_devices=0)
GPU = Machine(cores=16, cuda_devices=2)


def test_without_flags_one_process_runs_here_on_all_cores():
    plan = make_plan(LaunchSpec(), {}, machine=CPU)
    assert (plan.mode, plan.nproc, plan.device, plan.threads, plan.warning) == (
        "single",
        1,
        "cpu",
        4,
        None,
    )


def test_two_processes_share_the_cores():
    plan = make_plan(LaunchSpec(nproc=2), {}, machine=CPU)
    assert (plan.mode, plan.nproc, plan.threads, plan.backend) == ("spawn", 2, 2, "gloo")
    assert plan.environment == {"CUDA_VISIBLE_DEVICES": ""}


def test_cuda_is_chosen_where_there_is_one_and_brings_nccl():
    plan = make_plan(LaunchSpec(nproc=2), {}, machine=GPU)
    assert (plan.device, plan.backend) == ("cuda", "nccl")


def test_chosen_gpus_become_the_only_visible_ones():
    plan = make_plan(
        LaunchSpec(nproc=2, gpus=(3, 1)), {}, machine=Machine(cores=16, cuda_devices=4)
    )
    assert plan.environment == {"CUDA_VISIBLE_DEVICES": "3,1"}


@pytest.mark.parametrize(
    ("spec", "machine", "words"),
    [
        (LaunchSpec(nproc=3), GPU, "2 visible"),
        (LaunchSpec(nproc=2, gpus=(0,)), GPU, "1 visible"),
        (LaunchSpec(gpus=(2,)), GPU, "--gpus 2"),
        (LaunchSpec(gpus=(0, 0)), GPU, "once"),
        (LaunchSpec(gpus=(0,)), CPU, "no CUDA device"),
        (LaunchSpec(nproc=33), CPU, "at most --nproc 32"),
        (LaunchSpec(nproc=0), CPU, "--nproc is 0"),
        (LaunchSpec(threads=0), CPU, "--threads is 0"),
        (LaunchSpec(dist_timeout_s=0), CPU, "--dist-timeout"),
        (LaunchSpec(dist_timeout_s=float("nan")), CPU, "--dist-timeout"),
        (LaunchSpec(device="cuda"), CPU, "no CUDA device"),
        (LaunchSpec(device="mps"), CPU, "MPS"),
        (LaunchSpec(nproc=2, device="mps"), Machine(4, 0, has_mps=True), "one process"),
        (LaunchSpec(start_method="thread"), CPU, "spawn, forkserver or fork"),
        (LaunchSpec(nnodes=2), CPU, "--master-addr"),
        (LaunchSpec(nnodes=2, node_rank=2, master_addr="a", master_port=1), CPU, "--node-rank 2"),
    ],
)
def test_what_the_machine_cannot_do_is_refused_before_the_start(spec, machine, words):
    with pytest.raises(ConfigError, match=words.replace("(", r"\(")):
        make_plan(spec, {}, machine=machine)


def test_more_processes_than_cores_are_warned_about_up_to_eight_per_core():
    assert process_count_warning(4, device="cpu", cores=4, cuda_devices=0) is None
    assert "--nproc 5 on 4 CPU cores" in str(
        process_count_warning(5, device="cpu", cores=4, cuda_devices=0)
    )
    assert process_count_warning(32, device="cpu", cores=4, cuda_devices=0)


def test_what_another_launcher_started_is_reported_with_its_own_flag():
    given = {"device": "cpu", "cores": 4, "cuda_devices": 0}
    said = process_count_warning(5, launcher="torchrun", **given)
    assert "slower than torchrun --nproc-per-node 4" in said and " --nproc " not in said
    with pytest.raises(ConfigError, match="at most srun --ntasks-per-node 32"):
        process_count_warning(33, launcher="srun", **given)
    with pytest.raises(ConfigError, match="use torchrun --nproc-per-node 1, or --device cpu"):
        make_plan(LaunchSpec(device="cuda"), TORCHRUN, machine=Machine(cores=16, cuda_devices=1))


def test_a_device_s_number_is_for_one_process():
    assert make_plan(LaunchSpec(device="cuda:1"), {}, machine=GPU).device == "cuda:1"
    for spec, environ in (
        (LaunchSpec(nproc=2, device="cuda:1"), {}),
        (LaunchSpec(device="cuda:1"), TORCHRUN),
    ):
        with pytest.raises(ConfigError, match=r"names one device.*device='cuda'"):
            make_plan(spec, environ, machine=GPU)


def test_threads_are_an_equal_share_of_the_cores_and_at_least_one():
    assert [threads_per_process(None, cores=4, nproc=n) for n in (1, 2, 3, 4, 9)] == [4, 2, 1, 1, 1]
    assert threads_per_process(7, cores=4, nproc=4) == 7


def test_torchrun_is_joined_with_its_own_count_of_processes():
    plan = make_plan(LaunchSpec(), TORCHRUN, machine=CPU)
    assert (plan.mode, plan.nproc, plan.threads) == ("joined", 2, 2)


@pytest.mark.parametrize("environ", [TORCHRUN, SRUN])
@pytest.mark.parametrize(
    "spec", [LaunchSpec(nproc=2), LaunchSpec(nnodes=2, master_addr="a", master_port=1)]
)
def test_own_processes_inside_another_launcher_are_refused(environ, spec):
    with pytest.raises(ConfigError, match="already started"):
        make_plan(spec, environ, machine=CPU)


@pytest.mark.parametrize("absent", ["RANK", "LOCAL_RANK", "WORLD_SIZE"])
def test_half_of_torchruns_variables_are_refused_by_name(absent):
    environ = {name: value for name, value in TORCHRUN.items() if name != absent}
    with pytest.raises(ConfigError, match=f"not {absent}:"):
        make_plan(LaunchSpec(nproc=2), environ, machine=CPU)


@pytest.mark.parametrize(
    "environ",
    [
        {"SLURM_JOB_ID": "1"},
        # sbatch without srun
        {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
        {**SRUN, "SLURM_STEP_NUM_TASKS": "1"},  # an interactive step
    ],
)
def test_nproc_wins_in_an_interactive_slurm_shell(environ):
    assert make_plan(LaunchSpec(nproc=2), environ, machine=CPU).mode == "spawn"
    assert make_plan(LaunchSpec(), environ, machine=CPU).mode == "single"


def test_a_slurm_step_of_several_tasks_is_joined():
    plan = make_plan(LaunchSpec(), SRUN, machine=CPU)
    assert (plan.mode, plan.nproc) == ("joined", 4)
    assert slurm_as_torchrun(SRUN) == {
        "RANK": "5",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "8",
        "LOCAL_WORLD_SIZE": "4",
        "MASTER_ADDR": "gpu07",
        "MASTER_PORT": str(20000 + 123456 % 20000),
    }


def test_a_slurm_task_uses_all_the_cores_that_it_is_bound_to():
    # a task of four on this machine sees its own eight only
    bound = Machine(cores=8, cuda_devices=4)
    assert make_plan(LaunchSpec(), {**SRUN, "SLURM_CPUS_PER_TASK": "8"}, machine=bound).threads == 8
    assert (
        make_plan(LaunchSpec(), SRUN, machine=bound).threads == 2
    )  # it is not known whether they are shared
    narrow = make_plan(
        LaunchSpec(), {**SRUN, "SLURM_CPUS_PER_TASK": "1"}, machine=Machine(cores=1, cuda_devices=0)
    )
    assert (narrow.threads, narrow.warning) == (1, None)


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("a", "a"),
        ("a,b", "a"),
        ("gpu[003-007,9],head", "gpu003"),
        ("n[1,3]-ib", "n1-ib"),
        ("rack[1-2]node[03-04],other", "rack1node03"),
        ("r1-n2,r1-n3", "r1-n2"),
    ],
)
def test_the_first_host_of_a_slurm_list_is_found(hosts, first):
    assert first_host(hosts) == first


def test_foreign_variables_are_named_and_own_ones_are_not():
    environ = {**TORCHRUN, **SRUN, "MASTER_PORT": "1", "HOME": "/", "OMP_NUM_THREADS": "1"}
    assert set(foreign_variables(environ)) == set(environ) - {"HOME", "OMP_NUM_THREADS"}


def test_several_processes_elsewhere_than_on_linux_come_with_a_sentence():
    plan = make_plan(LaunchSpec(nproc=2), {}, machine=Machine(4, 0, system="darwin"))
    assert "Linux only" in str(plan.warning)


def test_no_sentence_of_a_plan_replaces_another():
    plan = make_plan(LaunchSpec(nproc=5), {}, machine=Machine(4, 0, system="darwin"))
    assert "share cores" in plan.warning and "Linux only" in plan.warning


def test_chosen_gpus_count_among_those_that_a_scheduler_left_visible():
    plan = make_plan(
        LaunchSpec(nproc=2, gpus=(1, 2)),
        {"CUDA_VISIBLE_DEVICES": "4, 5,GPU-7"},
        machine=Machine(cores=16, cuda_devices=3),
    )
    assert plan.environment == {"CUDA_VISIBLE_DEVICES": "5,GPU-7"}


def test_one_process_takes_its_gpu_by_number_and_hides_no_other():
    """Another run of the same program finds all of them."""
    assert make_plan(LaunchSpec(gpus=(1,)), {}, machine=GPU).environment == {}
