"""Embeddings of sentences on disk, so that a text encoder of ten gigabytes is needed once a sentence, anywhere.

    <root>/<encoder>-<fingerprint>/<sha256 of the sentence>.safetensors    made here, by that encoder
    <root>/<encoder>-imported/...                                          the published files, taken over as they are

A file holds embeddings (token, dim) without padding, and their sentences as metadata; a checkpoint's
`instructions.safetensors` has the same form with many. Root is the config's `text_cache`, else `$RDT_CACHE/text`,
else `~/.cache/rdt/text`. The fingerprint (`hub.fingerprint`) is the same on every machine, so a cache can be copied.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from data_pipeline.atomic import read_json, write_bytes

Embedding = Float[Tensor, "token dim"]

IMPORTED = "imported"
INSTRUCTIONS = "expanded_instruction_gpt-4-turbo.json"
"""Name, in the published data, of the file with a task's phrasings."""


def cache_root(configured: str | None = None) -> Path:
    """The folder of all caches, as the module's docstring says."""
    if configured:
        return Path(configured).expanduser()
    home = os.environ.get("RDT_CACHE")
    return (Path(home).expanduser() if home else Path.home() / ".cache" / "rdt") / "text"


class TextCache:
    """The embeddings of one encoder, by sentence."""

    def __init__(self, root: Path, encoder: str, fingerprint: str | None) -> None:
        """Without a `fingerprint`, the encoder not being on this machine, the one that made the cache is meant.

        Raises `ValueError` when several did.
        """
        self.encoder = encoder
        self.root = root
        if fingerprint is None:
            made = sorted(set(root.glob(f"{encoder}-*")) - {root / f"{encoder}-{IMPORTED}"})
            made = [folder for folder in made if len(folder.name) == len(encoder) + 1 + 16]
            if len(made) > 1:
                raise ValueError(
                    f"{root} holds embeddings of {len(made)} versions of {encoder!r} "
                    f"({', '.join(folder.name for folder in made)}), and the encoder's files are not here to tell "
                    "which one is meant: remove the others"
                )
            self.folder = made[0] if made else None
        else:
            self.folder = root / f"{encoder}-{fingerprint}"

    def get(self, sentence: str) -> Embedding | None:
        """The embedding, or None. Raises `ValueError` for a damaged file."""
        for folder in (self.folder, self.root / f"{self.encoder}-{IMPORTED}"):
            if folder is not None and (folder / _file_name(sentence)).is_file():
                return read_embeddings(folder / _file_name(sentence))[sentence]
        return None

    def put(self, sentence: str, embedding: Embedding) -> None:
        """Whole or not at all; of two writers of one sentence the last one wins, with the same content."""
        assert self.folder is not None, "only the encoder itself makes embeddings, and then it has a fingerprint"
        write_bytes(self.folder / _file_name(sentence), embeddings_bytes({sentence: embedding}))

    def put_imported(self, embeddings: Mapping[str, Embedding]) -> None:
        """Keep embeddings that somebody else made with this encoder; a fingerprint of it they have not."""
        for sentence, embedding in embeddings.items():
            path = self.root / f"{self.encoder}-{IMPORTED}" / _file_name(sentence)
            write_bytes(path, embeddings_bytes({sentence: embedding}))


def embeddings_bytes(embeddings: Mapping[str, Embedding]) -> bytes:
    """A safetensors file: tensors by number, sentences in the metadata by the same numbers."""
    tensors = {str(i): e.detach().cpu().contiguous() for i, e in enumerate(embeddings.values())}
    sentences = {str(i): sentence for i, sentence in enumerate(embeddings)}
    return safetensors_bytes(tensors, metadata=sentences or None)  # it cannot read back an empty mapping


def read_embeddings(path: str | Path) -> dict[str, Embedding]:
    """What `embeddings_bytes` made. Raises `ValueError` for a missing or damaged file."""
    try:
        with safe_open(path, framework="pt") as file:
            sentences = file.metadata() or {}
            return {sentences[key]: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError) as error:
        raise ValueError(f"{path} holds no embeddings, or is damaged ({error}): remove it") from None


def read_published(path: str | Path, sentence: str | None = None) -> dict[str, Embedding]:
    """The published embedding files (spec rdt.md section 6.2), sentence -> (token, dim).

    A file is a mapping `{name, instruction, embeddings}` or a bare tensor: `empty_lang_embed.pt`, or any other one
    together with its `sentence`. A folder holds `lang_embed_<i>.pt` beside the JSON of the task's phrasings: 0 the
    original, 1 the simplified, from 2 on the expanded ones.
    """
    path = Path(path)
    if path.is_dir():
        phrasings = _phrasings(path)
        files = [(path / f"lang_embed_{i}.pt", phrasing) for i, phrasing in enumerate(phrasings)]
        found = {phrasing: _read_tensor(file, phrasing)[phrasing] for file, phrasing in files if file.is_file()}
        if not found:
            raise ValueError(f"{path} holds no lang_embed_<i>.pt of its {len(phrasings)} phrasings")
        return found
    if sentence is None and path.name == "empty_lang_embed.pt":
        sentence = ""
    return _read_tensor(path, sentence)


def _read_tensor(path: Path, sentence: str | None) -> dict[str, Embedding]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} is missing or damaged, or holds more than tensors ({reason})") from None
    if isinstance(content, Mapping) and {"instruction", "embeddings"} <= set(content):
        sentence, content = content["instruction"], content["embeddings"]
    if not isinstance(content, Tensor) or not content.is_floating_point():
        raise ValueError(f"{path} holds neither a tensor nor {{name, instruction, embeddings}}")
    if sentence is None:
        raise ValueError(f"{path} holds a tensor without its sentence: give the sentence too")
    embedding = content[0] if content.ndim == 3 and len(content) == 1 else content
    if embedding.ndim != 2:
        raise ValueError(f"{path} holds a tensor of shape {tuple(content.shape)}: expected (tokens, dim)")
    return {sentence: embedding}


def _phrasings(folder: Path) -> list[str]:
    path = folder / INSTRUCTIONS
    content = read_json(path, "the bare tensors beside it are named by number, and it says which sentence each is")
    try:
        listed: Iterable[str] = content["expanded_instruction"]
        return [content["instruction"], content["simplified_instruction"], *listed]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path} must hold instruction, simplified_instruction and expanded_instruction ({error!r} is wrong)"
        ) from None


def _file_name(sentence: str) -> str:
    return hashlib.sha256(sentence.encode()).hexdigest() + ".safetensors"
