"""`rdt data repair`: save what can be saved; the damaged thing stays as it is."""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm import tqdm

from data_pipeline.atomic import check_apart
from data_pipeline.export.archive import is_archive, restore
from data_pipeline.repair import is_damaged_store, repair_store
from data_pipeline.sources.mcap import recover_mcap
from data_pipeline.sources.opening import recognise
from data_pipeline.sources.raw import Fault
from data_pipeline.sources.rlds_repair import repair_rlds
from data_pipeline.storage import EpisodeStore

_SHOWN = 20


def command(args: argparse.Namespace) -> None:
    path, out = Path(args.path), Path(args.out)
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {path}")
    check_apart(out, path)
    with tqdm(desc="repair", unit="", dynamic_ncols=True) as bar:
        faults = _repair(path, out, bar)
    for fault in faults[:_SHOWN]:
        print(f"{'lost  ' if fault.left_out else 'mended'}  {fault.where}: {fault.message}")
    if len(faults) > _SHOWN:
        print(f"and {len(faults) - _SHOWN} more")
    lost = sum(fault.left_out for fault in faults)
    what = f"{len(EpisodeStore.open(out))} episodes" if EpisodeStore.exists(out) else "the rest"
    saved = f"{what} saved in {out}"
    print(f"{saved}, {lost} lost, {len(faults) - lost} mended" if faults else f"nothing was wrong; {saved}")


def _repair(path: Path, out: Path, bar: tqdm) -> list[Fault]:
    if is_archive(path):
        return restore(path, out, progress=bar.update)
    if is_damaged_store(path):
        return repair_store(path, out, progress=lambda _: bar.update())
    recognised = recognise(path)
    if recognised == "rlds":
        return repair_rlds(path, out, progress=lambda _: bar.update())
    if recognised == "mcap":
        files = [path] if path.is_file() else sorted(path.rglob("*.mcap"))
        root, faults = path.parent if path.is_file() else path, []
        for file in files:
            fault = recover_mcap(file, out / file.relative_to(root))
            faults += [] if fault is None else [fault]
            bar.update()
        return faults
    raise ValueError(
        f"{path} is no store, archive, RLDS folder or MCAP recording: `rdt data convert` reads other recordings, "
        "leaves out what is damaged and says so"
    )
