"""`rdt data annotate`: how the operator felt, from EEG, at each step of a store's episodes."""

from __future__ import annotations

import argparse

from tqdm import tqdm

from data_pipeline.annotation.valence import NOTE
from data_pipeline.storage import EpisodeStore
from deploy.doctor import require


def command(args: argparse.Namespace) -> None:
    require("rdt data annotate", {"sklearn": "scikit-learn", "scipy": "scipy"}, extra="eeg")
    from data_pipeline.annotation.eeg.annotate import Study, annotate

    store = EpisodeStore.open(args.store)
    study = Study.from_yaml(args.eeg)
    with tqdm(total=len(store), desc="annotate", unit="episode", dynamic_ncols=True) as bar:
        written = annotate(store, study, args.out, progress=bar.update)
    notes = [entry.source[NOTE] for entry in written.entries if NOTE in entry.source]
    models = {note["operator"]: note["model"] for note in notes}
    print(f"{len(notes)} of {len(written)} episodes in {args.out} say how their operator felt")
    for operator, model in models.items():
        own = sum(note["operator"] == operator for note in notes)
        print(f"operator      {operator}: {own} episodes, model {model}")
    print(f"personal data: {args.out} tells how people felt; next: rdt data curate {args.out}")
