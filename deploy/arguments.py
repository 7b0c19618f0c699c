"""Values of command-line options, checked where they are read; nothing heavy is imported here."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def whole_number(low: int, high: int | None = None) -> Callable[[str], int]:
    """The type of an option that takes `low` to `high`, both included; None: any larger one, too."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or value < low or (high is not None and value > high):
            wanted = f"at least {low}" if high is None else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(f"must be a whole number {wanted}, got {text!r}")
        return value

    return number


MAX_SEED = 10_000
seed = whole_number(0, MAX_SEED - 1)
"""The type of a seed: scenes of recording and of evaluation lie in ranges that must not meet."""


def positive_numbers(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) <= 0:
        raise argparse.ArgumentTypeError(f"takes positive numbers, for instance 0.1,1,10, got {text!r}")
    return numbers


def names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def share(text: str) -> tuple[int, int]:
    """ "2/8", the third of eight shares -> (2, 8)."""
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise argparse.ArgumentTypeError(f"takes I/N with I from 0 to N - 1, for instance 0/8, got {text!r}")
    return int(number), int(count)


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")


def add_viewing_options(parser: argparse.ArgumentParser) -> None:
    """`page`: the port of the operator page, 0 for any free one, None for no page; `rerun`: a file, or None."""
    parser.add_argument(
        "--page",
        type=whole_number(0, 65535),
        default=0,
        metavar="PORT",
        help="of the operator page on this machine's loopback; by default any free one, which is printed",
    )
    parser.add_argument("--no-page", dest="page", action="store_const", const=None, help="serve no operator page")
    parser.add_argument("--rerun", metavar="FILE", help="write an .rrd file for rerun's viewer (extra viz)")


def viewing_words(args: argparse.Namespace) -> tuple[str, ...]:
    """The options that `add_viewing_options` read, for another process."""
    page = ("--no-page",) if args.page is None else ("--page", str(args.page))
    return page if args.rerun is None else (*page, "--rerun", args.rerun)


def policies_of(args: argparse.Namespace) -> tuple[str, ...]:
    """The policy of `rdt run` or of its node, and the one that it is compared with."""
    return (args.policy,) if args.against is None else (args.policy, args.against)
