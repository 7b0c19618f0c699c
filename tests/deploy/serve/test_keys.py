"""Run: pytest tests/deploy/serve/test_keys.py"""

import pytest

from deploy.serve.keys import VARIABLE, read_key


def test_a_file_goes_before_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert read_key(None) is None
    monkeypatch.setenv(VARIABLE, "from-here")
    assert read_key(None) == "from-here"
    (tmp_path / "key").write_text("from-there\n")
    assert read_key(str(tmp_path / "key")) == "from-there"


@pytest.mark.parametrize("text", ["", " \n", "two\nlines", "schlüssel"])
def test_what_is_no_key_is_refused(tmp_path, text):
    (tmp_path / "key").write_text(text)
    with pytest.raises(ValueError, match="one line of printable ASCII"):
        read_key(str(tmp_path / "key"))
