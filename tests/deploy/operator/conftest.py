"""A session of toy parts with its page: real processes, a real port."""

import threading
import time

import numpy as np
import pytest

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.registry import find_config
from deploy.loop import LoopSettings
from deploy.operator.page import OperatorPage
from deploy.operator.watch import Watch
from deploy.realtime.supervisor import RunSpec, Supervisor
from robot_drivers.types import CameraFrame

PARTS = "tests.deploy.realtime.parts"


@pytest.fixture
def supervisor():
    """Toy arms that hold; its camera shows a red picture with a moving bright bar."""
    robot = Embodiment.from_yaml(find_config("robots", "sim_bimanual"))
    spec = RunSpec(
        robot=robot,
        open_arm=f"{PARTS}:open_motor",
        open_backend=f"{PARTS}:open_leaning",
        settings=LoopSettings(interpolation="cubic", handover="blend", answer_timeout_s=0.5),
        frame_size=(64, 96),
    )
    stopping = threading.Event()

    def film():
        for count in range(1_000_000):
            if stopping.wait(0.02):
                return
            picture = np.zeros((64, 96, 3), np.uint8)
            picture[..., 0] = 200
            picture[:, count % 96] = 255
            supervisor.push_frame(CameraFrame("external", picture, time.monotonic_ns()))

    with Supervisor(spec, "lean up") as supervisor:
        filming = threading.Thread(target=film, daemon=True)
        filming.start()
        try:
            supervisor.wait_until_ready()
            yield supervisor
        finally:
            stopping.set()
            filming.join()


@pytest.fixture
def page(supervisor):
    with OperatorPage() as page:
        page.open(Watch(supervisor), supervisor)
        yield page
