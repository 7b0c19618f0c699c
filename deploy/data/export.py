"""`rdt data export`: native stores -> other people's formats."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_pipeline.export.exports import EXPORTS, export
from data_pipeline.schema.registry import unknown_name
from data_pipeline.selection import find_stores
from data_pipeline.storage import EpisodeStore

_VIDEO_ONLY = ("gr00t",)  # whose readers know no pictures in tables


def command(args: argparse.Namespace) -> None:
    if args.to not in EXPORTS:
        raise ValueError(unknown_name("export format", args.to, EXPORTS))
    stores = [EpisodeStore.open(path) for path in find_stores(args.store)]
    for store in stores:
        out = Path(args.out) / store.path.name if len(stores) > 1 else Path(args.out)
        with tqdm(total=len(store), desc=f"export {store.path.name}", unit="episode", dynamic_ncols=True) as bar:
            export(store, out, args.to, progress=bar.update, **_options(args, store))
        print(f"{len(store)} episodes, {sum(store.episode_lengths)} steps as {args.to} in {out}")


def _options(args: argparse.Namespace, store: EpisodeStore) -> dict[str, Any]:
    """What the words say, for a format that knows them. Raises `ValueError` for a word that means nothing to it."""
    cameras = args.cameras.split(",") if args.cameras else None
    if args.to in ("hdf5", "archive"):
        given = [name for name in ("vectors", "cameras", "video") if getattr(args, name)]
        if given:
            raise ValueError(f"--{given[0]} is for LeRobot exports, {args.to} has no such choice: leave it out")
        return {}
    vectors = args.vectors or ("native" if store.is_described else "unified")
    if args.to == "gr00t" and vectors != "native":
        raise ValueError(
            f"gr00t describes vectors by a robot's arms, and {store.path} was converted without a robot description: "
            "convert it with --robot, or export lerobot-v2.1"
        )
    video = args.video or args.to in _VIDEO_ONLY
    return {"vectors": vectors, "cameras": cameras, "visual": "video" if video else "image"}
