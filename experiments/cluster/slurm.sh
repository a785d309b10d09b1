#!/bin/bash
# The study as one Slurm job, which puts itself back into the queue until it is done. From the repository root:
#   STUDY_SHARED=/shared STUDY_TRACKING_URI=http://mlflow-host:5000 sbatch experiments/cluster/slurm.sh --profile class
#SBATCH --job-name=degradation-study
#SBATCH --output=degradation-study-%j.log
#SBATCH --open-mode=append
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=0
#SBATCH --time=04:00:00
# symmetric-run refuses a node on which any Ray runs, and ends with `ray stop`, which ends every Ray of yours there:
#SBATCH --exclusive
#SBATCH --requeue
# 60 s for trials to save, 60 s for Ray to stop, and Slurm may be 60 s early:
#SBATCH --signal=B:USR1@240
# For GPUs, one more line:  #SBATCH --gpus-per-node=4
set -uo pipefail
: "${STUDY_SHARED:?a folder that every node sees}" "${STUDY_TRACKING_URI:?an MLflow server that every node reaches}"
cd "$SLURM_SUBMIT_DIR" && PATH="$PWD/.venv/bin:$PATH" || exit 1  # Slurm runs a copy of this file

# A new token each time, in a folder (mode 700) and a file (mode 600) that every node sees and nobody else may read.
private=$(mktemp -d "$STUDY_SHARED/.study-XXXXXXXX") || exit 1
trap 'rm -rf "$private"' EXIT
(umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$private/token") || exit 1
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$private/token" RAY_USAGE_STATS_ENABLED=0
export RAY_TMPDIR="/tmp/study-$SLURM_JOB_ID"           # /tmp/ray may be another user's
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300      # importing from a shared file system takes its time

# Before the time limit (USR1) the study is asked to save, and queued again; cancelled (TERM), only the former. The
# launcher alone gets the signal: symmetric-run would kill it, and on other nodes Ray would end under the trials.
queue_again=''
# shellcheck disable=SC2329  # called by the traps
save() { kill -TERM "$(<"$private/launcher")" || kill -TERM "$step"; }
trap 'queue_again=yes; save' USR1
trap save TERM

# This script runs on the first node, which is to be the head. By address: a name may mean 127.0.1.1 there.
# shellcheck disable=SC2016  # for the other bash to expand
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  ray symmetric-run --address "$(hostname -I | cut -d ' ' -f 1):6379" --min-nodes "$SLURM_NNODES" \
  --num-cpus="$SLURM_CPUS_PER_TASK" --object-store-memory=200000000 -- \
  bash -c '"$@" & echo $! >"$0/launcher"; wait $!; echo $? >"$0/code"' "$private" \
  python -m analysis study --address auto --storage "$STUDY_SHARED/store" --data-root "$STUDY_SHARED/data" \
  --results "$STUDY_SHARED/results" --tracking-uri "$STUDY_TRACKING_URI" "$@" &
step=$!

# The launcher's own word, not srun's: symmetric-run may end with 0 where Ray did not even start, and other nodes may
# notice late, or never, that the head is gone. They have a minute.
waits=30
until ! kill -0 "$step" 2>/dev/null || { [ -s "$private/code" ] && [ $((waits -= 1)) -lt 0 ]; }; do
  sleep 2 &
  wait $!  # which a signal ends, so that it is heard at once
done
kill "$step" 2>/dev/null
code=$(cat "$private/code") || code=1

if [ "$code" != 0 ] && [ -n "$queue_again" ]; then  # 130: trials have saved. Cut short later, tables were being drawn
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
