"""Triton kernels on a CPU: its interpreter is chosen when Triton is imported, so a process of its own runs them."""

import os
import subprocess
import sys


def interpreted_error(module: str) -> float:
    """`largest_error("cpu")` of a test module, under the interpreter."""
    code = f"from {module} import largest_error; print(largest_error('cpu'))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return float(run.stdout)
