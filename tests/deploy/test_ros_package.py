"""The package of launch file, profile and executables, as pip and colcon make it.

Run: pytest tests/deploy/test_ros_package.py
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from deploy.graph import ROS_PACKAGE

tomllib = pytest.importorskip("tomllib", reason="in the standard library since Python 3.11")

ROOT = Path(__file__).resolve().parents[2]
NAME = "rdt_ros2"
MADE = ("build", f"{NAME}.egg-info", "__pycache__")
INSTALLED = {
    f"share/ament_index/resource_index/packages/{NAME}",
    f"share/{NAME}/package.xml",
    f"share/{NAME}/launch/bimanual.launch.py",
    f"share/{NAME}/config/fastdds.xml",
    f"lib/{NAME}/rdt_policy",
    f"lib/{NAME}/rdt_sim_robot",
}


def project(folder: Path) -> dict:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))


def run(*words: str | Path, **variables: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run([*map(str, words)], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy to build in: a build leaves folders beside its sources."""
    return shutil.copytree(ROS_PACKAGE, tmp_path_factory.mktemp("source") / NAME, ignore=shutil.ignore_patterns(*MADE))


@pytest.fixture(scope="module")
def prefix(source, tmp_path_factory):
    """Where pip installed it, from no network."""
    lacking = [tool for tool in ("pip", "setuptools") if importlib.util.find_spec(tool) is None]
    if lacking:
        pytest.skip(f"needs {lacking} to build without a network")
    prefix = tmp_path_factory.mktemp("prefix")
    options = ("--no-build-isolation", "--no-deps", "--no-index", "--quiet", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "install", *options, "--ignore-installed", "--prefix", prefix, source)
    return prefix


def test_the_package_says_one_name_and_one_version():
    said = ET.parse(ROS_PACKAGE / "package.xml").getroot()
    here, stack = project(ROS_PACKAGE)["project"], project(ROOT)["project"]
    assert said.findtext("name") == here["name"] == NAME
    assert said.findtext("version") == here["version"] == stack["version"]
    assert said.findtext("export/build_type") == "ament_python"
    assert "@" in said.find("maintainer").get("email")  # without a valid one colcon takes it for plain Python


def test_what_lies_in_the_folder_is_carried():
    carried = {file for files in project(ROS_PACKAGE)["tool"]["setuptools"]["data-files"].values() for file in files}
    shipped = {file for file in files_below(ROS_PACKAGE) if not set(Path(file).parts) & set(MADE)}
    assert shipped - {"pyproject.toml", "setup.py", "setup.cfg"} == carried


def test_pip_installs_what_launch_looks_for(prefix):
    assert files_below(prefix) >= INSTALLED
    for name in project(ROS_PACKAGE)["project"]["scripts"]:
        assert os.access(prefix / "lib" / NAME / name, os.X_OK)
        assert (prefix / "bin" / name).is_file()


def test_the_index_of_an_installation_knows_it(prefix):
    pytest.importorskip("ament_index_python", reason="needs the extra `ros2`")
    words = f"import ament_index_python as index; print(index.get_package_share_directory({NAME!r}))"
    assert run(sys.executable, "-c", words, AMENT_PREFIX_PATH=str(prefix)).strip() == str(prefix / "share" / NAME)


@pytest.mark.parametrize("name", ["rdt_policy", "rdt_sim_robot"])
def test_an_executable_is_the_node(prefix, name):
    pytest.importorskip("rclpy", reason="needs the extra `ros2`")
    assert "--robot" in run(sys.executable, prefix / "lib" / NAME / name, "--help")


def test_colcon_builds_it(source, tmp_path):
    colcon = shutil.which("colcon")
    if colcon is None:
        pytest.skip("needs colcon: pip install colcon-common-extensions")
    folders = ("--build-base", tmp_path / "build", "--install-base", tmp_path / "install")
    run(colcon, "--log-base", tmp_path / "log", "build", "--base-paths", source, *folders)
    assert files_below(tmp_path / "install" / NAME) >= INSTALLED
