"""Words of `rdt data`, and the table of what runs them; nothing heavy is imported here."""

from __future__ import annotations

import argparse

from data_pipeline.schema.registry import load_attribute
from deploy.arguments import share, whole_number

_POSITIVE = whole_number(1)

COMMANDS = {
    "convert": "deploy.data.convert:command",
    "export": "deploy.data.export:command",
    "validate": "deploy.data.validate:command",
    "stats": "deploy.data.stats:command",
    "inspect": "deploy.data.inspect:command",
    "view": "deploy.data.view:command",
    "merge": "deploy.data.merge:command",
    "repair": "deploy.data.repair:command",
    "annotate": "deploy.data.annotate:command",
    "curate": "deploy.data.curate:command",
}
"""Word after `rdt data` -> function of the parsed arguments; it returns an exit status or None for 0."""


def command(args: argparse.Namespace) -> int | None:
    return load_attribute("data command", args.data_command, COMMANDS)(args)


def add_parsers(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="data_command", metavar="COMMAND", required=True)

    convert = commands.add_parser(
        "convert",
        help="recordings of any format -> native store; a stopped conversion goes on",
        description="One store for one dataset; several configs make one store each in a folder of their names.",
    )
    convert.add_argument("configs", nargs="+", metavar="CONFIG", help="dataset YAML, by name or path")
    convert.add_argument("--out", required=True, metavar="DIR", help="folder of the store")
    convert.add_argument(
        "--root", metavar="DIR", help="folder that `source.glob` starts from; else here, else the YAML's own folder"
    )
    convert.add_argument("--workers", type=_POSITIVE, metavar="N", help="processes; else one for each core")
    convert.add_argument("--engine", choices=["pool", "ray"], default="pool", help="this machine, or a Ray cluster")
    convert.add_argument(
        "--job",
        type=share,
        metavar="I/N",
        help="do share I of N (from 0 on) in a job array; a last call without it joins the shares",
    )
    convert.add_argument(
        "--robot", metavar="ROBOT", help="robot YAML, by name or path; else the one that the YAML names"
    )
    convert.add_argument("--compat", choices=["rdt"], help="read with the quirks of the published code")
    convert.add_argument("--max-shards", type=_POSITIVE, metavar="N", help="convert the first N files only, for a look")
    convert.add_argument(
        "--max-quarantine",
        type=whole_number(0),
        metavar="N",
        help="fail when more episodes than this had to be left out",
    )
    convert.add_argument(
        "--long-side", type=whole_number(0), default=384, metavar="PX", help="larger pictures are reduced; 0: never"
    )
    convert.add_argument(
        "--jpeg-quality", type=whole_number(1, 100), default=95, metavar="Q", help="of pictures that are coded anew"
    )

    export = commands.add_parser("export", help="native store -> other people's formats")
    export.add_argument("store", metavar="STORE", help="a native store")
    export.add_argument(
        "--to", required=True, metavar="FORMAT", help="lerobot-v3.0, lerobot-v2.1, gr00t, hdf5 or archive (mp4)"
    )
    export.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    export.add_argument(
        "--vectors",
        choices=["native", "unified", "source"],
        help="of a LeRobot export: the robot's own (the default where it is known), 128 slots, or the source's columns",
    )
    export.add_argument("--cameras", metavar="A,B", help="camera roles to write; else all")
    export.add_argument("--video", action="store_true", help="mp4 instead of pictures in a LeRobot export")

    validate = commands.add_parser(
        "validate",
        help="find what is wrong, and say what to change",
        description="Takes stores, recordings of any known format, and dataset YAMLs. Leaves with 1 on errors.",
    )
    validate.add_argument("paths", nargs="+", metavar="PATH", help="a store, a folder of recordings, a dataset YAML")
    validate.add_argument("--root", metavar="DIR", help="for a dataset YAML, as in `rdt data convert`")
    validate.add_argument("--html", metavar="FILE", help="write a page with plots and pictures")
    validate.add_argument("--json", metavar="FILE", help="write the findings for a program")
    validate.add_argument("--max-episodes", type=_POSITIVE, metavar="N", help="look at so many episodes, evenly spread")

    stats = commands.add_parser("stats", help="statistics of each slot, in one exact pass")
    stats.add_argument("paths", nargs="+", metavar="STORE", help="native stores, or folders of them")
    stats.add_argument(
        "--workers", type=_POSITIVE, default=1, metavar="N", help="processes; the result does not depend on it"
    )
    stats.add_argument("--json", metavar="FILE", help="write them for a program")
    stats.add_argument(
        "--published", metavar="FILE", help="write the form of the published dataset_stat.json, one entry a store"
    )

    inspect = commands.add_parser("inspect", help="a summary; of a dataset YAML the mapping slot by slot")
    inspect.add_argument("path", metavar="PATH", help="a store, a folder of recordings, a dataset YAML by name or path")
    inspect.add_argument("--root", metavar="DIR", help="for a dataset YAML: check it against the files there")
    inspect.add_argument("--starter", metavar="FILE", help="of recordings: write a first dataset YAML, to be checked")

    view = commands.add_parser("view", help="an episode: cameras, slots over time, instruction")
    view.add_argument("path", metavar="PATH", help="a store")
    view.add_argument("--episode", default="0", metavar="N", help="number or name")
    view.add_argument("--out", metavar="FILE", help="write the page there; else a temporary file")
    view.add_argument("--rerun", nargs="?", const="", metavar="FILE", help="in rerun's viewer, or into its .rrd file")
    view.add_argument("--no-browser", action="store_true", help="write the page and do not open it")

    merge = commands.add_parser(
        "merge",
        help="one store of several",
        description="Names that meet are an error until a --rename says what is meant.",
    )
    merge.add_argument("stores", nargs="+", metavar="STORE", help="native stores, in the order of their episodes")
    merge.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    merge.add_argument(
        "--rename",
        action="append",
        default=[],
        metavar="[N:]KIND:OLD=NEW",
        help="KIND is camera, field, task or episodes (a prefix of names); N: only in the N-th store, from 1 on",
    )

    repair = commands.add_parser(
        "repair", help="save what can be saved of a damaged store or recording; restore an archive"
    )
    repair.add_argument(
        "path", metavar="PATH", help="a store, an archive, an RLDS folder, an MCAP file or a folder of them"
    )
    repair.add_argument("--out", required=True, metavar="DIR", help="a new folder; the damaged one is left as it is")

    annotate = commands.add_parser(
        "annotate",
        help="how the operator felt at each step, from EEG (extra eeg); personal data",
        description="The store is written anew with the valence of the operator, and left as it is.",
    )
    annotate.add_argument("store", metavar="STORE", help="a native store")
    annotate.add_argument(
        "--eeg", required=True, metavar="YAML", help="recordings, labelled parts, where episodes begin"
    )
    annotate.add_argument("--out", required=True, metavar="DIR", help="a new folder; a half-done one goes on")

    curate = commands.add_parser("curate", help="episodes by the valence of their operator, the lowest first")
    curate.add_argument("stores", nargs="+", metavar="STORE", help="annotated stores, or folders of them")
    curate.add_argument("--show", type=_POSITIVE, default=20, metavar="N", help="rows that are printed (default: 20)")
    curate.add_argument("--json", metavar="FILE", help="write all rows for a program")
