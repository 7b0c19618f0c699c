"""One line of progress for a conversion: how much, how fast, when it will end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from data_pipeline.conversion import Progress


@contextmanager
def progress_bar(name: str = "") -> Iterator[Progress]:
    """A function for `convert(progress=...)`; each stage gets a bar of its own."""
    bars: dict[str, tqdm] = {}

    def tell(stage: str, done: int, total: int) -> None:
        if stage not in bars:
            for bar in bars.values():
                bar.close()
            unit = {"unit": "B", "unit_scale": True, "unit_divisor": 1000} if stage == "convert" else {"unit": "file"}
            bars[stage] = tqdm(total=total, desc=f"{stage} {name}".strip(), dynamic_ncols=True, **unit)
        bars[stage].update(done - bars[stage].n)

    try:
        yield tell
    finally:
        for bar in bars.values():
            bar.close()
