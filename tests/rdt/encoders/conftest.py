from __future__ import annotations

from pathlib import Path

import pytest

from tests.published import make_siglip, make_t5


@pytest.fixture(scope="session")
def siglip(tmp_path_factory) -> Path:
    """A folder with a tiny SigLIP; not to be changed."""
    return make_siglip(tmp_path_factory.mktemp("published") / "siglip")


@pytest.fixture(scope="session")
def t5(tmp_path_factory) -> Path:
    """A folder with a tiny T5; not to be changed."""
    return make_t5(tmp_path_factory.mktemp("published") / "t5")
