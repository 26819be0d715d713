#!/bin/bash
# evenhand on two nodes of eight GPUs under Slurm:  sbatch examples/slurm.sh recipe.yaml runs/harbor
# The run folder and the data lie on a file system that both nodes see. Slurm warns 120 s before the time limit; the run
# then saves its step and ends, and goes on from there when the job is requeued.
#SBATCH --job-name=evenhand
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append

set -euo pipefail
RECIPE=$1
OUT=$2
HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# As many threads on every start: sums on a CPU depend on it, and a run refuses another number by name.
export OMP_NUM_THREADS=4

srun --kill-on-bad-exit=1 torchrun \
  --nnodes "$SLURM_NNODES" --nproc-per-node 8 \
  --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$HEAD:29500" \
  -m evenhand train "$RECIPE" --out "$OUT"
