#!/usr/bin/env bash
# Two machines with four GPUs each, one process per GPU:
#
#   NAME=first sbatch deploy/slurm.sh --data /shared/fer2013.csv --epochs 100
#
# What follows the script goes to "fer-ignite train". SHARED is a folder that all machines see under the same name; runs and
# dataset caches lie in it. Three minutes before the time is over Slurm sends SIGTERM: the run saves at its current step and leaves
# with 143, and the job goes back into the queue, where the same line continues it. SIGUSR1, SIGUSR2 and SIGHUP do the same
# (exit codes 138, 140, 129), for sites whose scripts send those. Other codes end it.
#SBATCH --job-name=fer-ignite
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

SHARED=${SHARED:-${SLURM_SUBMIT_DIR:-$PWD}}
export FER_IGNITE_CACHE="$SHARED/packs"

# Slurm binds each task to its own cores; SLURM_CPUS_PER_TASK, which --cpus-per-task sets, tells the program how many. All
# tasks must see all GPUs of their machine: no --gpus-per-task, no --gpu-bind.
# A --resume of yours takes the place of "auto"; after a requeue the run continues from its own newest resume point all the same.
resume=(--resume auto)
for word in "$@"; do
    case "$word" in --resume | --resume=*) resume=() ;; esac
done
code=0
srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
    fer-ignite train --out "$SHARED/runs" --name "${NAME:-fer-ignite}" --quiet ${resume[@]+"${resume[@]}"} "$@" || code=$?
case "$code" in
    129 | 138 | 140 | 143) scontrol requeue "$SLURM_JOB_ID" ;;
esac
exit "$code"
