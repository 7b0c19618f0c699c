"""`rdt data curate`: episodes in the order of their operator's valence, those to look at first."""

from __future__ import annotations

import argparse

from data_pipeline.annotation.valence import curation
from data_pipeline.atomic import write_json
from data_pipeline.selection import find_stores
from data_pipeline.storage import EpisodeStore


def command(args: argparse.Namespace) -> None:
    stores = [EpisodeStore.open(path) for given in args.stores for path in find_stores(given)]
    rows = curation(stores)
    total = sum(map(len, stores))
    print(f"{len(rows)} of {total} episodes say how their operator felt, those of the lowest relative valence first")
    if rows:
        wide = max(len(row["episode"]) for row in rows[: args.show])
        print(f"{'episode':{wide}s}  relative  valence  confidence  ended    operator")
        for row in rows[: args.show]:
            ended = {None: "-", True: "well", False: "badly"}[row["success"]]
            numbers = f"{row['relative']:+8.2f}  {row['valence']:+7.2f}  {row['confidence']:10.2f}"
            print(f"{row['episode']:{wide}s}  {numbers}  {ended:7s}  {row['operator']}")
    print("low is where a person may want to look, no verdict: see docs/eeg.md")
    if args.json:
        write_json(args.json, {"episodes": rows})
