"""The formats that a native store can be written to, by the names that users type."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from data_pipeline.atomic import check_apart
from data_pipeline.export.aloha import export_aloha
from data_pipeline.export.archive import archive
from data_pipeline.export.lerobot import export_lerobot
from data_pipeline.schema.registry import unknown_name
from data_pipeline.storage import EpisodeStore

EXPORTS: dict[str, Callable[..., None]] = {
    "lerobot-v3.0": partial(export_lerobot, version="v3.0"),
    "lerobot-v2.1": partial(export_lerobot, version="v2.1"),
    "gr00t": partial(export_lerobot, version="v2.1", gr00t=True),
    "hdf5": export_aloha,
    "archive": archive,
}


def export(store: EpisodeStore, out: str | Path, to: str, **options: Any) -> None:
    """Write `store` to the folder `out` in the format `to`; options are those of the format's own function.

    `progress`, which every format takes, is called after each episode.
    """
    if to not in EXPORTS:
        raise ValueError(unknown_name("export format", to, EXPORTS))
    if not len(store):
        raise ValueError(f"{store.path} holds no episodes: there is nothing to export")
    check_apart(out, store.path)
    EXPORTS[to](store, out, **options)
