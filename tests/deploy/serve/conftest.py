"""The tiny checkpoint that all services serve."""

import pytest

from tests.deploy.serve.policies import robot, write_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("served") / "checkpoint", robot())
