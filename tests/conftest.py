"""What all tests share."""

import os
import signal

# No test process may load OpenGL: its LLVM and the one that a torch optimizer brings do not live together
# (robot_drivers/sim/render.py). Tests of the OpenGL back ends draw in child processes that choose for themselves.
os.environ.setdefault("RDT_RENDERER", "raycast")

# small models are fastest on one thread, and two that wait for a busy core would spin
os.environ.setdefault("OMP_NUM_THREADS", "1")

# a shell starts background jobs deaf to Ctrl-C, and their children inherit it: tests of interrupts need ears
signal.signal(signal.SIGINT, signal.default_int_handler)
