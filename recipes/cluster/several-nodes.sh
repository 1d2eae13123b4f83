#!/usr/bin/env bash
# Pretraining on several machines: start this on each of them, with the same folders mounted on all.
#
#   HEAD=10.0.0.1:29500 NODES=2 recipes/cluster/several-nodes.sh --config pretrain.yaml --parallel.shard 0
#
# HEAD       address of one of the machines, and a free port there, where all meet
# NODES      how many machines; `1:4` goes on with fewer when some are lost, and takes them in when they come back
# PROCESSES  on each machine: a number, or `auto` (all GPUs; without any, all cores)
# RESTARTS   how often a run that lost a process begins again, from its last checkpoint
# RUN        a name that tells runs apart that meet at the same address
# WAIT       seconds to wait for more machines once the fewest are there
set -euo pipefail

exec torchrun \
  --nnodes "${NODES:?how many machines}" \
  --nproc-per-node "${PROCESSES:-auto}" \
  --rdzv-backend c10d \
  --rdzv-endpoint "${HEAD:?address:port of one of the machines}" \
  --rdzv-id "${RUN:-fromzero}" \
  --rdzv-conf "last_call_timeout=${WAIT:-30}" \
  --max-restarts "${RESTARTS:-3}" \
  -m fromzero pretrain "$@"
