"""Run: pytest tests/deploy/operator/test_rerun_log.py"""

import sys

import pytest

from deploy.operator.rerun_log import RerunLog, check_installed
from tests.deploy.realtime.parts import is_in, wait_for


def test_a_run_is_in_the_file(supervisor, tmp_path):
    pytest.importorskip("rerun", reason="needs the extra `viz`")
    path = tmp_path / "runs" / "one.rrd"
    with RerunLog(path, supervisor):
        supervisor.start()
        wait_for(lambda: supervisor.status()["measured"][0] > 0.1)
        supervisor.estop()
        wait_for(is_in(supervisor, "fault"))
    content = path.read_bytes()
    assert content.startswith(b"RRF") and len(content) > 10_000
    for entity in (b"cameras/external", b"joints/measured", b"joints/commanded", b"joints/chunk", b"mode"):
        assert entity in content


def test_without_rerun_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(ModuleNotFoundError, match=r"rdt-stack\[viz\]"):
        check_installed()
