"""What deploy/ says is well-formed, and its commands are the program's own. No Slurm, Kubernetes or Docker is there to run it."""

import fnmatch
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fer_ignite.config import Config

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SLURM = DEPLOY / "slurm.sh"


def settings_of(flags):
    """The settings' names in a command line for ``fer-ignite train``."""
    return [word[2:].partition("=")[0].replace("-", "_") for word in flags if word.startswith("--")]


def test_the_job_for_kubernetes_has_the_fields_that_the_operator_knows():
    job = yaml.safe_load((DEPLOY / "pytorchjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    # Source: PyTorchJobSpec and ElasticPolicy of kubeflow/training-operator, pkg/apis/kubeflow.org/v1/pytorch_types.go
    spec, elastic = job["spec"], job["spec"]["elasticPolicy"]
    assert set(spec) <= {"runPolicy", "elasticPolicy", "pytorchReplicaSpecs", "nprocPerNode"}
    assert set(elastic) <= {
        "minReplicas",
        "maxReplicas",
        "rdzvBackend",
        "rdzvPort",
        "rdzvHost",
        "rdzvId",
        "rdzvConf",
        "maxRestarts",
    }
    assert isinstance(spec["nprocPerNode"], str) and isinstance(elastic["maxRestarts"], int)
    worker = spec["pytorchReplicaSpecs"]["Worker"]
    assert elastic["minReplicas"] <= worker["replicas"] <= elastic["maxReplicas"]
    (container,) = worker["template"]["spec"]["containers"]
    assert container["name"] == "pytorch"  # the operator looks for it
    volumes = {volume["name"] for volume in worker["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    assert f"--nproc-per-node={spec['nprocPerNode']}" in container["command"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == int(spec["nprocPerNode"])


def test_every_job_for_kubernetes_may_write_its_volume_and_has_shared_memory():
    """The image's user is no root, and a container's own /dev/shm has 64 MB, too few for --workers and NCCL."""
    user_id = int(re.search(r"useradd .*--uid (\d+)", (DEPLOY / "Dockerfile").read_text())[1])
    for name in ("pytorchjob.yaml", "trainjob.yaml"):
        (pod,) = _pods(yaml.safe_load((DEPLOY / name).read_text()))
        assert pod["securityContext"]["fsGroup"] == user_id, name
        mounted = {
            mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]
        }
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes[mounted["/dev/shm"]]["emptyDir"] == {"medium": "Memory"}, name


def _pods(part):
    """The specifications of pods in a job, wherever they stand."""
    if isinstance(part, dict) and "containers" in part:
        return [part]
    values = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    return [pod for value in values for pod in _pods(value)]


def test_the_command_for_kubernetes_is_one_that_torchrun_and_the_program_know():
    job = yaml.safe_load((DEPLOY / "pytorchjob.yaml").read_text())
    (container,) = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    from torch.distributed.run import get_args_parser

    parsed = get_args_parser().parse_args(container["command"][1:] + container["args"])
    assert (parsed.training_script, parsed.nproc_per_node, parsed.module) == (
        "fer_ignite",
        "4",
        True,
    )
    assert parsed.training_script_args == container["args"]
    assert container["args"][0] == "train"
    assert set(settings_of(container["args"])) <= set(Config.model_fields)


def test_the_container_is_made_of_files_that_are_there_and_sent():
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [
        line.split(maxsplit=1)
        for line in text.splitlines()
        if line.strip() and not line.startswith("#")
    ]
    known = {"ARG", "FROM", "RUN", "WORKDIR", "COPY", "USER", "ENV", "VOLUME", "ENTRYPOINT", "CMD"}
    assert {word for word, _ in lines} <= known
    sent = [
        line[1:]
        for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    copied = [source for word, rest in lines if word == "COPY" for source in rest.split()[:-1]]
    assert sorted(copied) == sorted(sent) and all((ROOT / source).exists() for source in copied)
    last = dict(lines)
    assert json.loads(last["ENTRYPOINT"]) == ["fer-ignite"] and json.loads(last["CMD"]) == [
        "--help"
    ]
    extras = re.search(r'"\.\[(.*)\]"', text)[1].split(",")
    assert all(f"\n{extra} =\n" in (ROOT / "setup.cfg").read_text() for extra in extras)


def test_nothing_that_is_sent_to_the_container_s_builder_is_a_secret_or_a_run():
    sent = [
        line[1:]
        for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    unwanted = ("runs", ".git", "*.csv", ".venv", ".env", "build")
    assert not [name for name in sent for pattern in unwanted if fnmatch.fnmatch(name, pattern)]


def test_the_slurm_script_is_bash_and_its_flags_are_settings():
    subprocess.run(["bash", "-n", SLURM], check=True)
    text = SLURM.read_text().replace("\\\n", " ")
    (command,) = re.findall(r"fer-ignite train (.*?) \"\$@\"", text.split("set -euo pipefail")[1])
    assert set(settings_of(shlex.split(command))) <= set(Config.model_fields)
    options = re.findall(r"^#SBATCH (--\S+?)(?:=|$)", text, re.MULTILINE)
    assert len(options) == len(set(options)) == text.count("\n#SBATCH")


# Starts its tasks as a step of one machine does, with the variables that srun gives each of them.
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
for task in 0 1; do
    SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_NTASKS=2 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_ID=0 SLURM_STEP_NUM_NODES=1 \\
        SLURM_STEP_NODELIST=node1 "$@" > "$LOGS/task-$task.log" 2>&1 &
    pids[$task]=$!
done
code=0
for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
exit $code
"""


@pytest.fixture
def slurm(tmp_path):
    """(srun's text, *arguments) -> the finished script, with stand-ins for Slurm's programs first on the path."""
    (tmp_path / "bin").mkdir()

    def run(srun, *arguments):
        programs = {
            "srun": srun,
            "scontrol": '#!/usr/bin/env bash\necho "$@" > "$LOGS/scontrol.log"\n',
            "fer-ignite": f'#!/usr/bin/env bash\nexec "{sys.executable}" -m fer_ignite "$@"\n',
        }
        for name, text in programs.items():
            (tmp_path / "bin" / name).write_text(text)
            (tmp_path / "bin" / name).chmod(0o755)
        job = {
            "SLURM_JOB_ID": "4711",
            "SLURM_NTASKS": "2",
            "SLURM_CPUS_PER_TASK": "1",
            "SHARED": str(tmp_path),
            "LOGS": str(tmp_path),
        }
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        environment = {**os.environ, **job, "PATH": path, "PYTHONPATH": str(ROOT), "NAME": "queued"}
        return subprocess.run(
            ["bash", SLURM, *arguments], env=environment, capture_output=True, text=True
        )

    return run


@pytest.mark.slow
def test_two_tasks_with_srun_s_variables_make_one_run_of_two_processes(slurm, tmp_path):
    narrow = json.dumps({"widths": [8, 8], "blocks": [0, 0]})
    settings = [
        "--data",
        "demo:140",
        "--epochs",
        "1",
        "--device",
        "cpu",
        "--model-args",
        narrow,
        "--tta",
        "none",
        "--no-plots",
    ]
    ended = slurm(SRUN, *settings)
    assert ended.returncode == 0, (
        "".join(path.read_text() for path in tmp_path.glob("task-*.log")) + ended.stderr
    )
    summary = json.loads((tmp_path / "runs" / "queued" / "summary.json").read_text())
    assert (summary["status"], summary["world_size"]) == ("completed", 2)
    assert not (tmp_path / "scontrol.log").exists()
    assert (tmp_path / "packs" / "packs").is_dir()  # shared, because one task builds it for all


@pytest.mark.parametrize(
    ("code", "queued"), [(143, True), (129, True), (138, True), (140, True), (1, False), (0, False)]
)
def test_a_job_goes_back_into_the_queue_after_slurm_s_signal_only(slurm, tmp_path, code, queued):
    assert slurm(f"#!/usr/bin/env bash\nexit {code}\n").returncode == code
    log = tmp_path / "scontrol.log"
    assert (log.read_text().split() == ["requeue", "4711"]) if queued else not log.exists()


@pytest.mark.parametrize("given", [[], ["--resume", "mine.pt"], ["--resume=mine.pt"]])
def test_a_job_resumes_from_what_is_given_and_else_from_its_newest_resume_point(
    slurm, tmp_path, given
):
    ended = slurm('#!/usr/bin/env bash\nprintf "%s\\n" "$@" > "$LOGS/srun.log"\n', *given)
    words = (tmp_path / "srun.log").read_text().split()
    assert ended.returncode == 0
    assert words[words.index("--quiet") + 1 :] == (given or ["--resume", "auto"])


def test_the_job_for_trainer_v2_has_the_fields_that_trainer_knows():
    job = yaml.safe_load((DEPLOY / "trainjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("trainer.kubeflow.org/v1alpha1", "TrainJob")
    # Source: TrainJobSpec and Trainer of kubeflow/trainer, as kubeflow-trainer-api 2.3.0 has them
    trainer = job["spec"]["trainer"]
    assert set(job["spec"]) <= {
        "activeDeadlineSeconds",
        "initializer",
        "managedBy",
        "runtimePatches",
        "runtimeRef",
        "suspend",
        "trainer",
    }
    assert set(trainer) <= {
        "args",
        "command",
        "env",
        "image",
        "numNodes",
        "numProcPerNode",
        "resourcesPerNode",
    }
    assert trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == trainer["numProcPerNode"]
    from torch.distributed.run import get_args_parser

    parsed = get_args_parser().parse_args(trainer["command"][1:] + trainer["args"])
    assert parsed.module and parsed.training_script == "fer_ignite"
    assert set(settings_of(trainer["args"])) <= set(Config.model_fields)
    (patch,) = job["spec"]["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = node["template"]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] >= 60
    mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_trainer_s_own_client_takes_the_job_without_a_loss():
    models = pytest.importorskip("kubeflow_trainer_api.models")
    job = yaml.safe_load((DEPLOY / "trainjob.yaml").read_text())
    assert models.TrainerV1alpha1TrainJob.from_dict(job).to_dict() == job


def test_the_skypilot_task_has_fields_that_sky_knows_and_a_command_of_the_program():
    task = yaml.safe_load((DEPLOY / "skypilot.yaml").read_text())
    # Source: sky/utils/schemas.py of skypilot 0.14.1
    assert set(task) <= {"name", "resources", "num_nodes", "workdir", "file_mounts", "setup", "run"}
    words = shlex.split(task["run"].replace("\\\n", " "))
    flags = words[words.index("fer_ignite") + 1 :]
    assert flags[0] == "train" and set(settings_of(flags)) <= set(Config.model_fields)
    assert "--resume" in flags and flags[flags.index("--resume") + 1] == "auto"
    assert subprocess.run(["bash", "-n"], input=task["run"], text=True).returncode == 0


def test_sky_s_own_schema_takes_the_task():
    schemas = pytest.importorskip("sky.utils.schemas")
    jsonschema = pytest.importorskip("jsonschema")
    task = yaml.safe_load((DEPLOY / "skypilot.yaml").read_text())
    jsonschema.validate(task.pop("resources"), schemas.get_resources_schema())
    jsonschema.validate(task, schemas.get_task_schema())
