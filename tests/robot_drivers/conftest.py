"""What the tests of drivers share."""

import pytest


@pytest.fixture(autouse=True)
def patient_sdk(monkeypatch):
    """An emulated motor answers from a thread of this process, late where cores are busy: 0.2 s in place of 34 ms."""
    try:
        from dynamixel_sdk import port_handler
    except ModuleNotFoundError:
        return
    monkeypatch.setattr(port_handler, "LATENCY_TIMER", 100)
