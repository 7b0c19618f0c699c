"""The dataset YAML of a robot's own recordings says what the robot's YAML says.

Run: pytest tests/data_pipeline/mapping/test_robot_topics.py
"""

import numpy as np
import pytest
import yaml

from data_pipeline.mapping import robot_topics as topics
from data_pipeline.mapping.mapping import Mapping
from data_pipeline.schema.embodiment import UNITS, Embodiment, Joint
from data_pipeline.schema.registry import find_config, shipped_configs
from data_pipeline.schema.rotation import matrix_from_rot6d, rot6d_from_matrix
from data_pipeline.schema.types import ACTORS
from data_pipeline.sources.raw import RawEpisode


@pytest.mark.parametrize("name", sorted(shipped_configs("robots")))
def test_recorded_positions_become_the_vectors_of_the_robot(name):
    robot = Embodiment.from_yaml(find_config("robots", name))
    mapping = Mapping.from_dict(yaml.safe_load(topics.dataset_yaml(robot, "mine")))
    native = np.random.default_rng(0).uniform(-1, 1, (40, robot.num_native))
    turns = [i for i, entry in enumerate(robot.entries) if entry.part is None and entry.name in topics.ROTATION]
    rotations = matrix_from_rot6d(native[:, turns].reshape(40, -1, 6))
    native[:, turns] = rot6d_from_matrix(rotations).reshape(40, -1)
    in_si = native * [UNITS[entry.part.unit] if isinstance(entry.part, Joint) else 1 for entry in robot.entries]
    offset = robot.action_offset_steps
    raw = RawEpisode(
        "one",
        40,
        {
            f"{topics.MEASURED}/position": in_si,
            f"{topics.COMMANDED}/position": in_si,
            f"{topics.INSTRUCTION}/data": np.array(["lift the cup"] * 40, dtype=object),
            f"{topics.ACTOR}/data": np.array([ACTORS[step % 3] for step in range(40)], dtype=object),
        },
        metadata={"action_offset_steps": offset},
        stamps_ns=(np.arange(40) * 1e9 / robot.rate_hz).astype(np.int64),
    )
    (mapped,) = [one for one in mapping.apply(raw) if hasattr(one, "episode")]
    episode = mapped.episode
    assert episode.instructions == ("lift the cup",)
    assert episode.action_offset_steps == offset
    assert np.allclose(episode.states, robot.to_unified(native, "state")[0], atol=1e-5)
    meant = np.minimum(np.arange(40) + offset, 39)
    assert np.allclose(episode.actions, robot.to_unified(native[meant], "action")[0], atol=1e-5)
    assert np.array_equal(episode.actor_of_step, meant % 3)  # of who gave the action
