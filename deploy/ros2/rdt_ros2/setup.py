"""For colcon, which still runs a `setup.py`; everything is said in pyproject.toml."""

from setuptools import setup

setup()
