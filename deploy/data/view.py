"""`rdt data view`: one episode of a store as a page that plays in any browser, or in rerun's viewer."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import webbrowser
from pathlib import Path

from data_pipeline.atomic import write_text
from data_pipeline.schema.registry import unknown_name
from data_pipeline.storage import EpisodeStore
from deploy.data.view_page import build, check_installed


def command(args: argparse.Namespace) -> None:
    store = EpisodeStore.open(args.path)
    index = find_episode(store, args.episode)
    if args.rerun is not None:
        from deploy.data.rerun_view import show

        show(store, index, Path(args.rerun) if args.rerun else None)
        if args.rerun:
            print(f"{store.names[index]} is in {args.rerun}: `rerun {args.rerun}` shows it")
        return
    check_installed()
    path = Path(args.out) if args.out else Path(tempfile.mkdtemp(prefix="rdt_view_")) / f"episode_{index}.html"
    write_text(path, build(store, index, str(args.path)))
    print(f"{store.names[index]} (episode {index} of {len(store)}) is in {path}, {path.stat().st_size / 1e6:.1f} MB")
    if not args.no_browser and has_display():
        webbrowser.open(path.resolve().as_uri())


def find_episode(store: EpisodeStore, wanted: str) -> int:
    """By number, from the end too, or by name. Raises `ValueError` that says which there are."""
    if len(store) == 0:
        raise ValueError(f"{store.path} has no episodes")
    if wanted in store.names:
        return store.names.index(wanted)
    try:
        return range(len(store))[int(wanted)]
    except ValueError:
        raise ValueError(unknown_name("episode", wanted, store.names)) from None
    except IndexError:
        raise ValueError(f"{store.path} has episodes 0 to {len(store) - 1}, not {wanted}") from None


def has_display() -> bool:
    """Whether a browser window can be seen here."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
