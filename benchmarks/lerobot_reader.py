"""Runs in LeRobot's environment: `lerobot_reader.py DATASET HORIZON SIDE`; lines "SAMPLES SEED" -> cpu-ms a sample.

SIDE is what its image transform resizes pictures to; 0: nothing is resized.
"""

import os
import random
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset, LeRobotDatasetMetadata
from torchvision.transforms.v2 import Resize

root, horizon, side = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
meta = LeRobotDatasetMetadata("local/data", root=root)
history = {key: [-1 / meta.fps, 0.0] for key in meta.camera_keys}
dataset = LeRobotDataset(
    "local/data",
    root=root,
    delta_timestamps={**history, "action": [i / meta.fps for i in range(horizon)]},
    image_transforms=Resize((side, side)) if side else None,
)
for line in sys.stdin:
    samples, seed = map(int, line.split())
    choose = random.Random(seed)
    started = time.process_time()
    for _ in range(samples):
        dataset[choose.randrange(len(dataset))]
    print(1e3 * (time.process_time() - started) / samples, flush=True)
