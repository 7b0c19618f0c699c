#!/bin/sh
# All that a GPU has to show of training, in one command: correctness on CUDA, then the figures of docs/benchmarks.md.
#   benchmarks/train_gpu.sh [FOLDER]      from the repository's root, in an environment with '.[sim,encoders,gpu,lora,dev]'
# Targets, of `ours` or `compiled` on one H100: 1b 600 ms a step and half of plain's time, 1b_mixture 420 ms. Reserved
# memory in the JSON: 170m_8gb under 8 GB, 1b_24gb_8bit and 1b_24gb_lora under 24 GB.
set -eu
out=${1:-runs/train_gpu}
mkdir -p "$out"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee "$out/device.txt"
python -m pytest -q -m gpu tests/rdt tests/deploy 2>&1 | tee "$out/tests.txt"
bench() {
    name=$1
    shift
    python -m deploy.cli bench train --device cuda --json "$out/$name.json" "$@" 2>&1 | tee "$out/$name.txt"
}
bench tiny --size tiny --compile
bench 170m --size 170m --compile
bench 1b --size 1b --compile
bench 1b_mixture --size 1b --compile --cameras 1.63 --ranks 1
bench 1b_network --size 1b --compile --no-vision --ranks 1
bench 170m_8gb --size 170m --batch 4 --micro-batch 1 --ranks 1
bench 1b_24gb_8bit --size 1b --batch 4 --micro-batch 1 --activation-checkpointing --optimizer adamw8bit --ranks 1
bench 1b_24gb_lora --size 1b --batch 4 --micro-batch 1 --lora 16 --ranks 1
(cd "$out" && grep -h '^row ' tiny.txt && grep -E '^(plain|ours|compiled|ddp|fsdp) ' tiny.txt 170m*.txt 1b*.txt) |
    tee "$out/table.txt"
