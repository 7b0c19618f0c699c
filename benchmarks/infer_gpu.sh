#!/bin/sh
# All that a GPU has to show of inference, in one command: correctness on CUDA, then the figures of docs/benchmarks.md.
#   benchmarks/infer_gpu.sh [FOLDER]      from the repository's root, in an environment with '.[sim,encoders,gpu,dev]'
set -eu
out=${1:-runs/infer_gpu}
mkdir -p "$out"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee "$out/device.txt"
python -m pytest -q -m gpu tests/rdt tests/deploy 2>&1 | tee "$out/tests.txt"
for size in tiny 170m 1b; do
    python -m deploy.cli bench infer --size $size --device cuda --json "$out/$size.json" 2>&1 | tee "$out/$size.txt"
done
python -m deploy.cli bench infer --size 1b --device cuda --compile --json "$out/1b_compiled.json" 2>&1 | tee "$out/1b_compiled.txt"
for kind in int8 fp8; do
    python -m deploy.cli bench infer --size 1b --device cuda --compile --quantize $kind --no-vision \
        --json "$out/1b_$kind.json" 2>&1 | tee "$out/1b_$kind.txt"
done
