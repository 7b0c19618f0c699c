"""Damage to files, as disks and networks do it."""

from __future__ import annotations

from data_pipeline.lerobot_format import IMAGES
from data_pipeline.storage import EpisodeStore


def damage_picture(store: EpisodeStore, episode: int, step: int, role: str = "external") -> None:
    """Overwrite the end of one stored JPEG; the file keeps its size. Open the store anew to see it."""
    place = store._places[episode]
    jpeg = store.jpeg(episode, IMAGES + role, step)
    content = place.data.read_bytes()
    assert content.count(jpeg) == 1
    place.data.write_bytes(content.replace(jpeg, jpeg[:-2] + b"??"))
