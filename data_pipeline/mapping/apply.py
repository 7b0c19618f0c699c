"""A mapping at work on one record: split, filter, fill the slots, cut, and make the episode.

The order matters and is this: lengths, clock, gaps; then for each run without a gap: filters, language, length,
states and actions over the whole run (so that lags and differences see their neighbours), steps that are not finite,
the still start, actions of the chosen mode, pictures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping as MappingABC
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data_pipeline.mapping.language import Instructions
from data_pipeline.mapping.paths import CONST, EpisodeError
from data_pipeline.mapping.pictures import complete_frames, select_frames
from data_pipeline.mapping.timing import advancing, check_rate, rate_of, stamps_of, without_gaps
from data_pipeline.schema.layout import NUM_SLOTS
from data_pipeline.schema.types import ACTORS, Episode, Frames
from data_pipeline.sources.raw import Fault, RawEpisode
from data_pipeline.transforms.filters import first_usable_step

if TYPE_CHECKING:
    from data_pipeline.mapping.mapping import Mapping

BAD_IMAGES = 0.01  # share of broken pictures in one camera above which an episode is left out


@dataclass(frozen=True)
class MappedEpisode:
    """An episode in unified units, and what a mapping knows beside it."""

    episode: Episode
    extra_images: MappingABC[str, Frames]  # path -> frames of cameras that are recorded and not used
    steps: np.ndarray  # int64 (steps,), which steps of the record these are
    dataset: str
    robot: str
    max_steps: int | None  # a visit draws this many steps of a longer episode


def apply(mapping: Mapping, raw: RawEpisode) -> list[MappedEpisode | Fault]:
    """See `Mapping.apply`."""
    faults: list[Fault] = []
    try:
        raw = _of_one_length(mapping, raw, faults)
        runs, rate_hz = _runs(mapping, raw, faults)
    except EpisodeError as error:
        return [*faults, Fault(error.kind, raw.name, str(error))]
    episodes: list[MappedEpisode] = []
    for number, steps in enumerate(runs):
        run = raw if len(steps) == raw.num_steps else _select(raw, steps, number if len(runs) > 1 else None)
        try:
            episodes.append(_map_run(mapping, run, steps, rate_hz, faults))
        except EpisodeError as error:
            faults.append(Fault(error.kind, run.name, str(error)))
    return [*episodes, *faults]


def _map_run(mapping: Mapping, raw: RawEpisode, at: np.ndarray, rate_hz: float, faults: list[Fault]) -> MappedEpisode:
    """A run without gaps, whose steps are steps `at` of the record. Raises `EpisodeError`."""
    instructions = mapping.language.read(raw)
    for condition in mapping.filters:
        if not condition.holds(raw, instructions.texts):
            raise EpisodeError("filtered", f"filter {condition.text!r} does not hold")
    if raw.num_steps < mapping.limits.min_length:
        raise EpisodeError("too_short", f"{raw.num_steps} steps, expected at least {mapping.limits.min_length}")

    states, state_mask, actions, action_mask = _vectors(mapping, raw)
    steps = _finite_steps(mapping, raw, states, actions, faults)
    steps = _without_still_start(mapping, raw, steps)
    there, valid = _targets(mapping, len(states), steps)
    if mapping.action.mode == "next_state":
        actions, action_mask = states, state_mask
    actions = actions[there]
    states = states[steps]
    for name, (low, high) in mapping.rules_of_state().outside(states, state_mask).items():
        faults.append(
            Fault(
                "gripper_range", f"{raw.name}, {name}", f"holds {low:.4g} .. {high:.4g}: kept as it is", left_out=False
            )
        )
    images, image_masks, extra = _pictures(mapping, raw, steps, faults)
    return MappedEpisode(
        episode=Episode(
            name=raw.name,
            states=states.astype(np.float32),
            state_mask=state_mask,
            actions=actions.astype(np.float32),
            action_mask=action_mask,
            images=images,
            instructions=instructions.texts,
            rate_hz=rate_hz,
            action_offset_steps=int(raw.metadata.get("action_offset_steps", 0)),
            image_masks=image_masks,
            action_valid=valid,
            instruction_weights=instructions.weights,
            instruction_of_step=_at_steps(instructions, steps),
            actor_of_step=_actors(mapping, raw, there),
        ),
        extra_images=extra,
        steps=at[steps],
        dataset=mapping.name,
        robot=mapping.robot,
        max_steps=mapping.limits.max_steps,
    )


def _vectors(mapping: Mapping, raw: RawEpisode) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """States and the rules' actions of every step with their masks; in mode next_state the actions are empty."""
    base, base_mask = mapping.base_rules.fill(raw)
    base_before = _later(base, mapping.base.lag)
    if mapping.action.mode == "previous_action_as_state":
        actions, action_mask = mapping.action_rules.fill(raw)
        states, state_mask = _later(actions, 1), action_mask
    else:
        states, state_mask = mapping.state.fill(raw)
        actions, action_mask = mapping.action_rules.fill(raw, states)
    states, state_mask = states + base_before, state_mask | base_mask
    if mapping.action.mode != "next_state" and mapping.base.source == "action":
        actions, action_mask = actions + base, action_mask | base_mask
    return states, state_mask, actions, action_mask


def _later(vectors: np.ndarray, lag: int) -> np.ndarray:
    """Row t holds what row t - lag held, 0 before the first."""
    lag = min(lag, len(vectors))
    return np.concatenate([np.zeros((lag, NUM_SLOTS)), vectors[: len(vectors) - lag]])


def _targets(mapping: Mapping, num_steps: int, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which step of the run each kept step has its action from, int64 (steps,), and whether that is its own."""
    if mapping.action.mode == "next_state":
        return np.append(steps[1:], steps[-1]), np.arange(len(steps)) < len(steps) - 1
    wanted = steps + mapping.action.shift
    there = np.clip(wanted, 0, num_steps - 1)
    return there, wanted == there


def _actors(mapping: Mapping, raw: RawEpisode, there: np.ndarray) -> np.ndarray | None:
    """Who gave each action, which stands at step `there` of the run; None where the record does not say."""
    if mapping.actor is None or mapping.actor not in raw.fields:
        return None
    words = np.asarray(raw.fields[mapping.actor])[there]
    unknown = sorted({str(word) for word in words} - {*ACTORS, ""})
    if unknown:
        raise EpisodeError("bad_value", f"{mapping.actor} says {unknown}, expected {list(ACTORS)}")
    return np.array([ACTORS.index(word or "nobody") for word in words], dtype=np.int64)


def _finite_steps(
    mapping: Mapping, raw: RawEpisode, states: np.ndarray, actions: np.ndarray, faults: list[Fault]
) -> np.ndarray:
    finite = np.isfinite(states).all(axis=1) & np.isfinite(actions).all(axis=1)
    bad = np.flatnonzero(~finite)
    if len(bad) == 0:
        return np.arange(raw.num_steps)
    message = f"not finite at {len(bad)} of {raw.num_steps} steps, first at step {bad[0]}"
    if mapping.policies["nan"] == "quarantine" or not finite.any():
        raise EpisodeError("nan", message)
    faults.append(Fault("nan", raw.name, f"{message}: these steps are left out", left_out=False))
    return np.flatnonzero(finite)


def _without_still_start(mapping: Mapping, raw: RawEpisode, steps: np.ndarray) -> np.ndarray:
    """By the numbers that the rules read, in the file's own units, as the published loader has it."""
    eps = mapping.limits.still_lead_eps
    if eps is None:
        return steps
    rules = [rule for rule in mapping.rules_of_state().active(raw) if not rule.source.path.startswith(CONST)]
    values = np.concatenate([rule.read(raw)[steps] for rule in rules], axis=1)
    try:
        return steps[first_usable_step(values, eps) :]
    except ValueError as error:
        raise EpisodeError("still", str(error)) from None


def _pictures(
    mapping: Mapping, raw: RawEpisode, steps: np.ndarray, faults: list[Fault]
) -> tuple[dict[str, Frames], dict[str, np.ndarray], dict[str, Frames]]:
    """Frames by role with their masks, and of the extra cameras by path."""
    colour = raw.metadata.get("colour", mapping.source.colour)  # what a file says of itself is right
    if colour not in ("rgb", "bgr"):
        raise EpisodeError("colour", f"the file's colour must be rgb or bgr, got {colour!r}")
    images: dict[str, Frames] = {}
    masks: dict[str, np.ndarray] = {}
    for role, path in mapping.cameras.roles.items():
        if path not in raw.images or len(raw.images[path]) == 0:
            message = f"camera {role} ({path!r}) is missing: the record has {sorted(raw.images)}"
            if mapping.policies["missing_camera"] == "quarantine":
                raise EpisodeError("missing_camera", message)
            faults.append(Fault("missing_camera", raw.name, f"{message}; masked", left_out=False))
            continue
        good = complete_frames(raw.images[path])
        bad = np.flatnonzero(~good)
        if len(bad):
            message = f"camera {role}: {len(bad)} of {len(good)} pictures are cut short or none, first at step {bad[0]}"
            if mapping.policies["bad_image"] == "quarantine" or len(bad) > BAD_IMAGES * len(good):
                raise EpisodeError("bad_image", message)
            faults.append(Fault("bad_image", raw.name, f"{message}; masked", left_out=False))
        images[role] = select_frames(raw.images[path], steps, colour, good)
        masks[role] = good[steps]
    extra = {
        path: select_frames(raw.images[path], steps, colour, np.ones(len(raw.images[path]), dtype=bool))
        for path in mapping.cameras.extra
        if path in raw.images
    }
    return images, masks, extra


def _of_one_length(mapping: Mapping, raw: RawEpisode, faults: list[Fault]) -> RawEpisode:
    """The record, its fields and pictures as long as it says. Raises `EpisodeError` with the lengths."""
    used = {path: len(raw.fields[path]) for path in mapping.paths() if path in raw.fields}
    used |= {path: len(raw.images[path]) for path in mapping.cameras.paths() if path in raw.images}
    wrong = {path: n for path, n in used.items() if n not in (raw.num_steps, 0)}
    if not wrong:
        return raw
    shortest = min(raw.num_steps, *wrong.values())
    longest = max(raw.num_steps, *wrong.values())
    lengths = ", ".join(f"{path} {n}" for path, n in wrong.items())
    message = f"the record has {raw.num_steps} steps, but {lengths}"
    if mapping.policies["lengths"] == "quarantine" or longest - shortest > 1:
        raise EpisodeError("lengths", message)
    faults.append(Fault("lengths", raw.name, f"{message}: cut to {shortest}", left_out=False))
    return _select(raw, np.arange(shortest), None)


def _runs(mapping: Mapping, raw: RawEpisode, faults: list[Fault]) -> tuple[list[np.ndarray], float]:
    """Steps of each run without a gap, and the rate in Hz. Raises `EpisodeError`."""
    stamps, rate = stamps_of(raw, mapping.rate.clock), mapping.rate
    everything = np.arange(raw.num_steps)
    if raw.num_steps == 0:
        raise EpisodeError("too_short", "the record has no steps")
    if stamps is None:
        if rate.hz is None:
            raise EpisodeError("wrong_rate", "fps comes from timestamps, but the record has none")
        if "rate_hz" in raw.metadata:
            check_rate(rate.hz, float(raw.metadata["rate_hz"]), "the file says")
        return [everything], rate.hz
    steps = advancing(stamps)
    if len(steps) < len(stamps):
        lost = len(stamps) - len(steps)
        faults.append(
            Fault("timestamps", raw.name, f"{lost} stamps repeat or go back: these steps are left out", left_out=False)
        )
    rate_hz = rate_of(stamps[steps], rate.hz)
    runs = [steps[run] for run in without_gaps(stamps[steps], rate_hz)]
    if len(runs) > 1:
        message = f"{len(runs) - 1} pauses of more than 3 periods, first after step {runs[0][-1]}"
        if mapping.policies["gap"] == "quarantine":
            raise EpisodeError("gap", message)
        faults.append(Fault("gap", raw.name, f"{message}: split into {len(runs)} episodes", left_out=False))
    return runs, rate_hz


def _select(raw: RawEpisode, steps: np.ndarray, number: int | None) -> RawEpisode:
    """Some steps of a record, as part `number` of it."""
    return dataclasses.replace(
        raw,
        name=raw.name if number is None else f"{raw.name}#{number}",
        num_steps=len(steps),
        fields={path: values[steps] if len(values) else values for path, values in raw.fields.items()},
        images={path: _some(frames, steps) for path, frames in raw.images.items()},
        stamps_ns=None if raw.stamps_ns is None else raw.stamps_ns[steps],
    )


def _some(frames: Frames, steps: np.ndarray) -> Frames:
    """As they are, broken ones too: they are looked for when the episode is made."""
    return select_frames(frames, steps, "rgb", np.ones(len(frames), dtype=bool)) if len(frames) else frames


def _at_steps(instructions: Instructions, steps: np.ndarray) -> np.ndarray | None:
    return None if instructions.of_step is None else instructions.of_step[steps]
