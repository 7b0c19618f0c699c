"""The parts of a mapping that are plain values: source, rate, cameras, action mode, base, limits, policies.

Each is read from YAML by `parse`, which names the nearest key for an unknown one and says what it expected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from data_pipeline.frames import Colour
from data_pipeline.mapping.paths import expand
from data_pipeline.schema.registry import check_keys, unknown_name
from data_pipeline.schema.types import CAMERA_ROLES

FORMATS = ("rlds", "tfds", "hdf5", "lerobot", "mcap", "rosbag", "rh20t", "droid")
ACTION_MODES = ("next_state", "recorded", "previous_action_as_state")
ActionMode = Literal["next_state", "recorded", "previous_action_as_state"]

FAULT_POLICIES: dict[str, tuple[str, ...]] = {  # fault -> what may be done about it, the default first
    "nan": ("quarantine", "drop_steps"),
    "missing_camera": ("mask", "quarantine"),
    "bad_image": ("mask", "quarantine"),
    "gap": ("split", "quarantine"),
    "lengths": ("quarantine", "truncate"),  # truncate: by one step, no more
}


@dataclass(frozen=True)
class SourceSpec:
    """Which files, in which format."""

    format: str
    glob: str = "**/*"
    split: str = "all"
    colour: Colour = "rgb"  # channel order that a standard decoder returns

    @classmethod
    def parse(cls, raw: Any) -> SourceSpec:
        raw = _keys("source", raw, ("format", "glob", "split", "colour"), required=("format",))
        _one_of("source.format", raw["format"], FORMATS)
        _one_of("source.colour", raw.get("colour", "rgb"), ("rgb", "bgr"))
        for key in ("glob", "split"):
            if not isinstance(raw.get(key, ""), str):
                raise ValueError(f"source.{key} must be a text, got {raw[key]!r}")
        return cls(**raw)


@dataclass(frozen=True)
class Rate:
    """Steps a second: a number, or from the record's own clock."""

    hz: float | None  # None: each record's own, from its stamps
    clock: str | None = None  # field that ticks, for fps from timestamps
    resampled: bool = False  # the source puts records of many clocks on ticks of `hz`

    @classmethod
    def parse(cls, raw: Any, defs: Mapping[str, str]) -> Rate:
        if not isinstance(raw, Mapping):
            return cls(_positive("fps", raw))
        raw = _keys("fps", raw, ("from", "field", "resample"), required=("from",))
        _one_of("fps.from", raw["from"], ("timestamps",))
        clock, resample = raw.get("field"), raw.get("resample")
        if clock is not None and not isinstance(clock, str):
            raise ValueError(f"fps.field must be a path, got {clock!r}")
        return cls(
            None if resample is None else _positive("fps.resample", resample),
            None if clock is None else expand(clock, defs),
            resampled=resample is not None,
        )


@dataclass(frozen=True)
class Cameras:
    """Which picture field is which camera; further ones are recorded and not used."""

    roles: Mapping[str, str] = field(default_factory=dict)  # role -> path, those that exist
    extra: tuple[str, ...] = ()

    @classmethod
    def parse(cls, raw: Any, defs: Mapping[str, str]) -> Cameras:
        raw = _keys("cameras", raw, (*CAMERA_ROLES, "extra"))
        extra = raw.pop("extra", None) or []
        if not isinstance(extra, list):
            raise ValueError(f"cameras.extra is a list of paths, got {extra!r}")
        for name, path in [*raw.items(), *(("extra", path) for path in extra)]:
            if not (isinstance(path, str) or (path is None and name != "extra")):
                raise ValueError(f"cameras.{name} must be a path or null, got {path!r}")
        return cls(
            {role: expand(raw[role], defs) for role in CAMERA_ROLES if raw.get(role) is not None},
            tuple(expand(path, defs) for path in extra),
        )

    def paths(self) -> tuple[str, ...]:
        return (*self.roles.values(), *self.extra)


@dataclass(frozen=True)
class ActionSpec:
    """What the network is taught to predict.

    next_state: the states that follow. recorded: the rules' values. previous_action_as_state: the rules' values, and
    the state of a step is the command of the step before. shift: the command of step t + shift stands with step t.
    """

    mode: ActionMode
    shift: int = 0
    rules: Any = ()  # as YAML writes them

    @classmethod
    def parse(cls, raw: Any) -> ActionSpec:
        raw = _keys("action", raw, ("mode", "rules", "shift"), required=("mode",))
        mode = _one_of("action.mode", raw["mode"], ACTION_MODES)
        shift, rules = raw.get("shift", 0), raw.get("rules") or []
        if type(shift) is not int:
            raise ValueError(f"action.shift is a whole number of steps, got {shift!r}")
        if (mode == "next_state") == bool(rules):
            raise ValueError(f"action.rules {'are not used by' if rules else 'are needed by'} mode {mode}")
        if shift and mode != "recorded":
            raise ValueError(f"action.shift moves recorded commands, it has no meaning in mode {mode}")
        return cls(cast(ActionMode, mode), shift, rules)


@dataclass(frozen=True)
class BaseSpec:
    """Velocity of a mobile base: the state of step t carries that of step t - lag, 0 before the first.

    source action: the values are commands, and recorded actions carry them too, without the lag.
    """

    source: str = "action"
    lag: int = 1
    rules: Any = ()

    @classmethod
    def parse(cls, raw: Any) -> BaseSpec:
        raw = _keys("base", raw, ("rules", "source", "lag"), required=("rules",))
        source = _one_of("base.source", raw.get("source", "action"), ("action", "state"))
        lag = raw.get("lag", 1 if source == "action" else 0)
        if type(lag) is not int or lag < 0:
            raise ValueError(f"base.lag is a number of steps from 0 on, got {lag!r}")
        return cls(source, lag, raw["rules"])


@dataclass(frozen=True)
class Limits:
    """Which episodes are long enough, how much of a long one a visit sees, where a still start ends."""

    min_length: int = 32
    max_steps: int | None = 2048  # steps a visit draws at random from a longer episode; the stream does it
    still_lead_eps: float | None = None  # None: keep the still start

    @classmethod
    def parse(cls, raw: Any) -> Limits:
        raw = _keys("limits", raw, ("min_length", "max_steps", "still_lead_eps"))
        for key in ("min_length", "max_steps"):
            if raw.get(key) is not None and (type(raw[key]) is not int or raw[key] < 1):
                raise ValueError(f"limits.{key} is a number of steps from 1 on, got {raw[key]!r}")
        if raw.get("still_lead_eps") is not None:
            raw["still_lead_eps"] = _positive("limits.still_lead_eps", raw["still_lead_eps"])
        return cls(**{key: value for key, value in raw.items() if value is not None or key != "min_length"})


def parse_policies(raw: Any) -> dict[str, str]:
    """Fault -> policy, the defaults filled in."""
    raw = _keys("faults", raw, FAULT_POLICIES)
    for name, policy in raw.items():
        _one_of(f"faults.{name}", policy, FAULT_POLICIES[name])
    return {name: raw.get(name, choices[0]) for name, choices in FAULT_POLICIES.items()}


def parse_defs(raw: Any) -> dict[str, str]:
    if not isinstance(raw, Mapping) or not all(isinstance(t, str) for pair in raw.items() for t in pair):
        raise ValueError(f"defs takes {{NAME: path}}, got {raw!r}")
    return dict(raw)


def _keys(name: str, raw: Any, known: Any, required: tuple[str, ...] = ()) -> dict[str, Any]:
    if not isinstance(raw, Mapping):
        raise ValueError(f"{name} takes {{{', '.join(known)}}}, got {raw!r}")
    check_keys(name, raw, known)
    missing = [key for key in required if key not in raw]
    if missing:
        raise ValueError(f"{name} needs {', '.join(missing)}")
    return dict(raw)


def _one_of(name: str, value: Any, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ValueError(unknown_name(name, str(value), choices))
    return value


def _positive(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ValueError(f"{name} must be a number above 0, got {value!r}")
    return float(value)
