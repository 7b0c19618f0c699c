"""`rdt data merge`: one store of several."""

from __future__ import annotations

import argparse

from tqdm import tqdm

from data_pipeline.merge import Rename, common_robot, merge
from data_pipeline.selection import find_stores
from data_pipeline.storage import EpisodeStore


def command(args: argparse.Namespace) -> None:
    renames = [Rename.parse(text) for text in args.rename]
    stores = [EpisodeStore.open(path) for given in args.stores for path in find_stores(given)]
    with tqdm(total=sum(map(len, stores)), desc="merge", unit="episode", dynamic_ncols=True) as bar:
        merged = merge(stores, args.out, renames, progress=bar.update)
    print(f"{len(merged)} episodes, {sum(merged.episode_lengths)} steps of {len(stores)} stores in {args.out}")
    if common_robot(stores) is None and any(store.is_described for store in stores):
        print("the robots differ: the new store keeps unified vectors alone, without a robot's description")
