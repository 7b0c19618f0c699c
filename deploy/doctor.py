"""`rdt doctor`: what this machine has, what is missing, and the words that install it."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Mapping

CORE = (
    "numpy",
    "torch",
    "pyyaml",
    "h5py",
    "safetensors",
    "pillow",
    "pyarrow",
    "simplejpeg",
    "jaxtyping",
    "jsonargparse",
    "tqdm",
    "google-crc32c",
)
EXTRAS = {
    "sim": ("mujoco", "gym-aloha", "imageio", "imageio-ffmpeg", "matplotlib", "jinja2", "scipy"),
    "encoders": ("transformers", "timm", "sentencepiece", "protobuf"),
    "lora": ("peft",),
    "augment": ("opencv-python-headless",),
    "video": ("av",),
    "mcap": ("mcap", "mcap-ros2-support", "rosbags"),
    "rlds": ("tensorflow-datasets", "tensorflow"),
    "array_record": ("array-record",),
    "rl": ("tianshou", "gymnasium", "mujoco"),
    "eeg": ("scikit-learn", "scipy", "mne"),
    "cluster": ("ray",),
    "viz": ("rerun-sdk",),
    "samplers": ("diffusers",),
    "serve": ("websockets", "msgpack"),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "viperx": ("dynamixel-sdk",),
    "ur": ("ur-rtde",),
    "realsense": ("pyrealsense2",),
    "usb_cameras": ("opencv-python-headless",),
    "urdf": ("yourdfpy",),
    "workspace": ("pin",),
    "eef": ("pin", "pin-pink", "daqp"),
    "piper": ("piper-sdk", "python-can"),
    "ros2": (
        "ros-rclpy",
        "ros-rmw-fastrtps-cpp",
        "ros-sensor-msgs",
        "ros-std-msgs",
        "ros-std-srvs",
        "ros-diagnostic-msgs",
    ),
}
SPEED = ("flash-attn", "torchao")  # picked up where installed; flash-attn has to be built for the machine
GL_PACKAGES = "libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri"


def command(args: argparse.Namespace) -> int:
    """Print the diagnosis. Returns 1 when a core package is missing."""
    print(f"python        {platform.python_version()} ({sys.executable})")
    print(f"machine       {platform.machine()}, {os.cpu_count()} cores, {platform.system()}")
    missing = _print_packages("core", CORE)
    for extra, packages in EXTRAS.items():
        absent = _print_packages(f"extra {extra}", packages)
        if absent and not (extra == "ros2" and _has_own_ros()):
            print(f"{'':13s} without {', '.join(absent)}: pip install 'rdt-stack[{extra}]'")
    _print_packages("for speed", SPEED)
    print(f"torch device  {_torch_device()}")
    print(f"rendering     {_rendering()}")
    free_gb = shutil.disk_usage(".").free / 1e9
    print(f"disk here     {free_gb:.0f} GB free")
    if missing:
        print(f"\nmissing: {', '.join(missing)}; run `pip install -e .` in the checkout")
        return 1
    return 0


def require(what: str, modules: Mapping[str, str], extra: str = "sim") -> None:
    """Raise `ModuleNotFoundError` unless all modules (import name -> package) of an extra can be imported."""
    reasons = {package: _import_error(module) for module, package in modules.items()}
    missing = [package + reason for package, reason in reasons.items() if reason is not None]
    if missing:
        raise ModuleNotFoundError(f"{what} needs {', '.join(missing)}: pip install 'rdt-stack[{extra}]'")


def versions() -> dict[str, str]:
    """Installed versions of what a result depends on, for reports."""
    found = {"python": platform.python_version()}
    for package in ("rdt-stack", "torch", "numpy", "mujoco", "gym-aloha"):
        version = _version(package)
        if version:
            found[package] = version
    return found


def _print_packages(title: str, packages: tuple[str, ...]) -> list[str]:
    known = {package: _version(package) for package in packages}
    print(f"{title:13s} " + ", ".join(f"{name} {version or '-'}" for name, version in known.items()))
    return [name for name, version in known.items() if version is None]


def _has_own_ros() -> bool:
    """Whether ROS 2 is there and not by our wheels, which would not mix with it."""
    return importlib.util.find_spec("rclpy") is not None and _version("ros-rclpy") is None


def _import_error(module: str) -> str | None:
    """None if a module can be imported, "" if it is absent, else its own words in brackets."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        return "" if error.name == module else f" ({error})"
    except ImportError as error:
        return f" ({error})"
    return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _torch_device() -> str:
    if _version("torch") is None:
        return "torch is not installed"
    import torch

    if not torch.cuda.is_available():
        return f"cpu, {torch.get_num_threads()} threads"
    properties = torch.cuda.get_device_properties(0)
    return f"cuda: {torch.cuda.device_count()} x {properties.name}, {properties.total_memory / 2**30:.0f} GiB"


def _rendering() -> str:
    if _version("mujoco") is None:
        return "none: pip install 'rdt-stack[sim]'"
    from robot_drivers.sim.render import choose_backend

    backend = choose_backend()
    if backend == "raycast":
        return f"raycast (no OpenGL: slow videos; on Debian `apt-get install {GL_PACKAGES}` gives EGL)"
    return backend
