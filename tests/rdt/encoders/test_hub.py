"""Run: pytest tests/rdt/encoders/test_hub.py"""

import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rdt.encoders.hub import (
    CONFIG,
    TOKENIZER,
    WEIGHTS,
    ModelName,
    check_installed,
    fetch_model,
    find_model,
    fingerprint,
)
from rdt.encoders.text_cache import cache_root


def name(path, needs=(CONFIG, WEIGHTS)) -> ModelName:
    return ModelName("vision encoder", str(path), "condition.vision_path", needs)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network and an empty hub cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_folder_is_taken_as_it_is(siglip):
    assert find_model(name(siglip)) == fetch_model(name(siglip)) == siglip


def test_models_are_found_by_name_in_the_folder_of_models(siglip, monkeypatch, offline):
    monkeypatch.setenv("RDT_MODELS", str(siglip.parent))
    assert find_model(name("google/siglip")) == siglip
    assert find_model(name("/another/machine/siglip")) == siglip
    assert find_model(name("google/siglap")) is None


def test_what_the_hub_has_left_on_this_machine_is_used_without_a_network(siglip, offline):
    snapshot = offline / "models--google--tiny" / "snapshots" / "abc"
    shutil.copytree(siglip, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    assert fetch_model(name("google/tiny")) == snapshot
    (snapshot / "model.safetensors").unlink()  # a download that was cut short
    assert find_model(name("google/tiny")) is None


@pytest.mark.parametrize("model", ["google/siglip-nowhere", "/no/such/folder"])
def test_a_model_that_is_nowhere_is_one_message(model, offline):
    with pytest.raises(ValueError) as error:
        fetch_model(name(model, (CONFIG, WEIGHTS, TOKENIZER)))
    for part in ("config.json", "model.safetensors", "spiece.model", "condition.vision_path", "RDT_MODELS"):
        assert part in str(error.value)
    assert ("https://huggingface.co/google/siglip-nowhere" in str(error.value)) == (model[0] != "/")


def test_a_folder_that_lacks_something_says_what(siglip, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"lacks model\.safetensors or .*pytorch_model\.bin"):
        find_model(name(tmp_path))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "1.st", "b": "2.st"}}))
    (tmp_path / "1.st").touch()
    with pytest.raises(ValueError, match=r"lacks 2\.st$"):
        find_model(name(tmp_path))


def test_the_fingerprint_follows_the_content_and_not_the_place(siglip, tmp_path):
    copy = shutil.copytree(siglip, tmp_path / "copy")
    assert fingerprint(copy) == fingerprint(siglip)
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    changed = fingerprint(copy)
    assert changed != fingerprint(siglip)
    (copy / "config.json").write_text("{}")
    assert fingerprint(copy) not in (changed, fingerprint(siglip))


def test_a_missing_package_says_what_to_install():
    check_installed("this", ["json"])
    with pytest.raises(ModuleNotFoundError, match=r"SigLIP needs no_such_package: pip install 'rdt-stack\[encoders\]'"):
        check_installed("SigLIP", ["no_such_package", "json"])


def test_the_cache_stands_where_one_says(monkeypatch, tmp_path):
    monkeypatch.delenv("RDT_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "rdt" / "text"
    monkeypatch.setenv("RDT_CACHE", str(tmp_path / "shared"))
    assert cache_root() == tmp_path / "shared" / "text"
    assert cache_root("~/own") == tmp_path / "own"


@pytest.fixture
def hub(siglip, monkeypatch, tmp_path):
    """A hub of one model on this machine, and an empty cache. Gives the list of files that were asked for."""
    asked = []

    class Hub(BaseHTTPRequestHandler):
        def answer(self) -> bytes:
            _, owner, repo, _, _, file = self.path.split("/", 5)
            asked.append(file)
            found = (owner, repo) == ("google", "tiny") and (siglip / file).is_file()
            content = (siglip / file).read_bytes() if found else b""
            self.send_response(200 if found else 404)
            self.send_header("X-Repo-Commit", "a" * 40)
            self.send_header("ETag", f'"{file}"')
            self.send_header("Content-Length", str(len(content)))
            if not found:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            return content

        def do_HEAD(self):
            self.answer()

        def do_GET(self):
            self.wfile.write(self.answer())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", here)
        template = here + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        yield asked
        server.shutdown()


def test_what_is_not_here_is_fetched_once(siglip, hub):
    assert find_model(name("google/tiny")) is None
    folder = fetch_model(name("google/tiny"))
    assert {file.name for file in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert fingerprint(folder) == fingerprint(siglip)
    hub.clear()
    assert fetch_model(name("google/tiny")) == folder
    assert hub == []


def test_a_repository_without_a_tokenizer_is_no_text_encoder(hub):
    with pytest.raises(ValueError, match=r"has no spiece\.model or tokenizer\.json"):
        fetch_model(name("google/tiny", (CONFIG, WEIGHTS, TOKENIZER)))
