"""pytest tests/data_pipeline/schema/test_registry.py"""

from __future__ import annotations

import math

import pytest

from data_pipeline.schema.registry import check_keys, find_config, load_attribute, unknown_name


def test_a_typo_is_answered_with_the_nearest_name():
    assert "did you mean 'rate_hz'?" in unknown_name("key", "rate", ["rate_hz", "name"])
    with pytest.raises(ValueError, match=r"robot: unknown key 'nam'.*'name'"):
        check_keys("robot", {"nam": 1}, ["rate_hz", "name"])


def test_attributes_are_imported_on_use():
    assert load_attribute("root", "square", {"square": "math:sqrt"}) is math.sqrt
    with pytest.raises(ValueError, match="unknown root 'cube': did you mean 'square'"):
        load_attribute("root", "cube", {"square": "math:sqrt"})


def test_shipped_configs_are_found_by_name_and_by_path():
    path = find_config("robots", "sim_bimanual")
    assert path.is_file() and find_config("robots", path) == path


def test_a_missing_config_names_the_nearest():
    with pytest.raises(FileNotFoundError, match="did you mean 'sim_bimanual'"):
        find_config("robots", "sim_bimanul")
    with pytest.raises(FileNotFoundError, match=r"no file nowhere/robot\.yaml"):
        find_config("robots", "nowhere/robot.yaml")
