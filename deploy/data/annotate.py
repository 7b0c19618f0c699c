"""`rdt data annotate`: how the operator felt, from EEG, at each step of a store's episodes."""

from __future__ import annotations

import argparse

from tqdm import tqdm

from data_pipeline.annotation.valence import operator_states
from data_pipeline.storage import EpisodeStore
from deploy.doctor import require

LEAST_CONFIDENCE = 0.01


def command(args: argparse.Namespace) -> None:
    require("rdt data annotate", {"sklearn": "scikit-learn", "scipy": "scipy"}, extra="eeg")
    from data_pipeline.annotation.eeg.annotate import Study, annotate

    store = EpisodeStore.open(args.store)
    study = Study.from_yaml(args.eeg)
    with tqdm(total=len(store), desc="annotate", unit="episode", dynamic_ncols=True) as bar:
        written = annotate(store, study, args.out, progress=bar.update)
    states = [state for state in operator_states([written])[0] if state is not None]
    print(f"{len(states)} of {len(written)} episodes in {args.out} say how their operator felt")
    for operator, model in {state.operator: state.model for state in states}.items():
        own = [state.confidence for state in states if state.operator == operator]
        sure = sum(own) / len(own)
        print(f"operator      {operator}: {len(own)} episodes, mean confidence {sure:.2f}, model {model}")
        if sure < LEAST_CONFIDENCE:
            print(f"              nothing in the labelled parts of {operator} tells classes apart: label longer ones")
    print(f"personal data: {args.out} tells how people felt; next: rdt data curate {args.out}")
