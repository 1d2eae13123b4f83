#!/usr/bin/env bash
# Pretraining on all devices of one machine. What stands behind the name of this file goes to `fromzero pretrain`:
#
#   recipes/cluster/one-node.sh --config pretrain.yaml --parallel.shard 0
#
# PROCESSES  one for each device: a number, or `auto` (all GPUs; without any, all cores)
# RESTARTS   how often a run that lost a process begins again, from its last checkpoint
set -euo pipefail

exec torchrun --standalone \
  --nproc-per-node "${PROCESSES:-auto}" \
  --max-restarts "${RESTARTS:-3}" \
  -m fromzero pretrain "$@"
