"""What all tests share."""

import os

# No test process may load OpenGL: its LLVM and the one that a torch optimizer brings do not live together
# (robot_drivers/sim/render.py). Tests of the OpenGL back ends draw in child processes that choose for themselves.
os.environ.setdefault("RDT_RENDERER", "raycast")
