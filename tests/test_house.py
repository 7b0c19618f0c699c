"""Import directions of the house that import-linter's contracts cannot say.

Run: pytest tests/test_house.py
"""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("data_pipeline", "rdt", "robot_drivers", "deploy")

# library -> the only places that may import it
CONFINED = {
    "h5py": ("data_pipeline/sources/hdf5.py",),
    "mujoco": ("robot_drivers/sim/",),
    "gym_aloha": ("robot_drivers/sim/",),
    "rclpy": (
        "robot_drivers/messages.py",
        "robot_drivers/arm_node.py",
        "robot_drivers/camera_node.py",
        "deploy/node.py",
    ),
    "tianshou": ("rdt/alignment/tianshou_bridge.py", "rdt/alignment/c_gail.py"),
    "av": ("data_pipeline/sources/video.py",),
    "cv2": ("data_pipeline/transforms/augment.py", "robot_drivers/v4l2.py"),
    "mcap": ("data_pipeline/sources/mcap.py", "data_pipeline/sources/mcap_writer.py"),
    "mcap_ros2": ("data_pipeline/sources/mcap.py",),
    "rosbags": ("data_pipeline/sources/mcap.py", "data_pipeline/sources/mcap_writer.py"),
    "tensorflow": ("data_pipeline/sources/rlds_tfds.py",),
    "tensorflow_datasets": ("data_pipeline/sources/rlds_tfds.py",),
    "pyrealsense2": ("robot_drivers/realsense.py",),
    "dynamixel_sdk": ("robot_drivers/dynamixel.py",),
    "piper_sdk": ("robot_drivers/piper.py",),
    "rtde_control": ("robot_drivers/ur5e.py",),
    "rtde_receive": ("robot_drivers/ur5e.py",),
    "diffusers": ("rdt/diffusion/diffusers_sampler.py",),
    "transformers": ("rdt/encoders/pretrained.py",),
    "peft": ("rdt/train/lora.py",),
    "timm": ("rdt/encoders/timm_vision.py",),
    "yourdfpy": ("deploy/urdf.py",),
    "rerun": ("deploy/data/rerun_view.py", "deploy/operator/rerun_log.py"),
    "pinocchio": ("robot_drivers/pinocchio_arms.py",),
    "coal": ("robot_drivers/pinocchio_arms.py",),
    "pink": ("robot_drivers/pink_solver.py",),
    "daqp": ("robot_drivers/pink_solver.py",),
    "websockets": ("deploy/serve/",),
    "msgpack": ("deploy/serve/",),
    "mne": ("data_pipeline/annotation/eeg/reader.py",),
    "sklearn": ("data_pipeline/annotation/eeg/", "deploy/bench_eeg.py"),
}
ESTIMATOR = "data_pipeline/annotation/eeg/wcmf.py"
SCHEMA_MAY_IMPORT = {"numpy", "yaml"}
MODEL_MAY_IMPORT = {  # constants of the schema
    "data_pipeline.schema.layout",
    "data_pipeline.schema.layout.NUM_SLOTS",
    "data_pipeline.schema.types",
    "data_pipeline.schema.types.CAMERA_ROLES",
}


ALIGNMENT_METHODS = {"iql", "sfbc", "qgpo", "eda", "srpo", "nca", "cca", "c_gail"}


def source_files() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


@cache
def imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports, wherever in the file it does."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_contracts_of_import_linter_hold():
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("library", CONFINED)
def test_heavy_libraries_enter_in_one_place(library):
    offenders = [
        relative(path)
        for path in source_files()
        if any(name.split(".")[0] == library for name in imports(path))
        and not relative(path).startswith(CONFINED[library])
    ]
    assert offenders == []


def test_schema_stands_on_the_ground():
    for path in (ROOT / "data_pipeline/schema").glob("*.py"):
        foreign = {
            name
            for name in imports(path)
            if name.split(".")[0] not in sys.stdlib_module_names | SCHEMA_MAY_IMPORT
            and not name.startswith("data_pipeline.schema")
        }
        assert foreign == set(), relative(path)


def test_drivers_know_only_the_schema_of_the_data_pipeline():
    for path in (ROOT / "robot_drivers").rglob("*.py"):
        used = {name for name in imports(path) if name.startswith("data_pipeline")}
        assert all(name.startswith("data_pipeline.schema") for name in used), relative(path)


def test_mathematics_knows_only_schema_constants():
    for folder in ("diffusion", "model"):
        for path in (ROOT / "rdt" / folder).rglob("*.py"):
            used = {name for name in imports(path) if name.startswith("data_pipeline")}
            assert used <= MODEL_MAY_IMPORT, relative(path)


def test_trainer_and_alignment_meet_only_at_the_door():
    for here, there in (("train", "alignment"), ("alignment", "train")):
        for path in (ROOT / "rdt" / here).rglob("*.py"):
            assert not any(f"{name}.".startswith(f"rdt.{there}.") for name in imports(path)), relative(path)


def test_an_alignment_method_does_not_know_another():
    for path in (ROOT / "rdt/alignment").glob("*.py"):
        used = {name.split(".")[2] for name in imports(path) if name.startswith("rdt.alignment.")}
        assert not used & ALIGNMENT_METHODS - {path.stem}, relative(path)


def test_imports_sees_every_way_to_name_a_module(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from rdt import alignment\n    import torch.nn\n    from rdt.alignment import sfbc\n")
    assert imports(bad) >= {"rdt.alignment", "torch.nn", "rdt.alignment.sfbc"}


def test_package_markers_are_empty():
    assert [relative(p) for p in source_files() if p.name == "__init__.py" and p.read_text(encoding="utf-8")] == []


def test_importing_the_house_needs_no_extra():
    """What only some machines have is imported when used, not when the module is."""
    heavy = {
        "mujoco",
        "gym_aloha",
        "matplotlib",
        "imageio",
        "jinja2",
        "scipy",
        "tensorflow",
        "rclpy",
        "diffusers",
        "transformers",
        "timm",
        "peft",
        "huggingface_hub",
        "rerun",
        "cv2",
        "websockets",
        "msgpack",
        "dynamixel_sdk",
        "piper_sdk",
        "can",
        "rtde_control",
        "rtde_receive",
        "pyrealsense2",
        "yourdfpy",
        "sklearn",
        "mne",
    }
    for path in source_files():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:  # module level only
            if isinstance(node, ast.Import):
                found = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found = {node.module.split(".")[0]}
            else:
                continue
            if relative(path).startswith(CONFINED["rclpy"]):  # a ROS 2 face: who imports it has asked for ROS
                found -= {"rclpy"}
            if relative(path) == ESTIMATOR:  # a class of scikit-learn's
                found -= {"sklearn"}
            assert not found & heavy, f"{relative(path)} imports {found & heavy} when it is imported"
