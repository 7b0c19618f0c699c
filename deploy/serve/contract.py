"""What a policy server says about itself at connect, and whether a robot may be driven by it.

The first frame of a connection is this contract as a map (spec interop.md section 8.6). A stock openpi client ignores
it; ours compares its own robot with the policy's and refuses to start where they differ in what moves an arm: which
joint stands where, its slot, unit and sign, the gripper's ranges, the rate, the cameras. Where a robot only names
another driver, camera source or limit it is the same robot: limits live with the motors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from data_pipeline.schema.embodiment import Embodiment, Gripper, Joint
from data_pipeline.schema.layout import SLOT_NAMES
from data_pipeline.schema.types import CAMERA_KEYS
from deploy.serve.wire import WireError, as_map, describe

PROTOCOL = "rdt-ws/1"
SUPPORTS = ("t_obs", "history", "reset")
"""Optional fields of a request that the server reads."""


class ContractMismatchError(ValueError):
    """The policy on the server was made for another robot; the message lists what differs."""


@dataclass(frozen=True)
class Contract:
    """The policy's robot and what the policy wants to see of it."""

    robot: Embodiment
    horizon: int  # actions in a chunk
    cameras: tuple[str, ...]  # roles that the policy looks at and its robot has
    history: int  # frames of each camera, one control period apart
    image_size: int  # pixels of the side of the square that the network reads; any size may be sent
    statistics: Mapping[str, Any] = field(default_factory=dict)  # `native_statistics`; {} where none are known

    def metadata(self) -> dict[str, Any]:
        """The map that is sent, of plain types."""
        return {
            "protocol": PROTOCOL,
            "action_horizon": self.horizon,
            "control_hz": float(self.robot.rate_hz),
            "action_names": list(self.robot.native_names),
            "cameras": [CAMERA_KEYS[role] for role in self.cameras],
            "image_size": self.image_size,
            "history": self.history,
            "supports": list(SUPPORTS),
            "robot": self.robot.to_dict(),
            "statistics": dict(self.statistics),
        }

    @classmethod
    def from_metadata(cls, message: Any) -> Contract:
        """The inverse of `metadata`. Raises `WireError` for another stack's server or a damaged message."""
        metadata = as_map(message)
        if metadata.get("protocol") != PROTOCOL:
            raise WireError(
                f"the server says protocol {metadata.get('protocol')!r:.50}, this client speaks {PROTOCOL!r}: "
                "start it with `rdt serve` of this version"
            )
        roles = {key: role for role, key in CAMERA_KEYS.items()}
        try:
            contract = cls(
                robot=Embodiment.from_dict(metadata["robot"]),
                horizon=metadata["action_horizon"],
                cameras=tuple(roles[key] for key in metadata["cameras"]),
                history=metadata["history"],
                image_size=metadata["image_size"],
                statistics=as_map(metadata["statistics"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise WireError(f"the server's contract cannot be read, got {describe(metadata)}: {error!r:.200}") from None
        for name in ("horizon", "history", "image_size"):
            value = getattr(contract, name)
            if type(value) is not int or value < 1:
                raise WireError(f"the server's contract: {name} must be a whole number above 0, got {value!r:.50}")
        return contract

    def check(self, robot: Embodiment) -> None:
        """Raise `ContractMismatchError` unless this robot can be driven by the policy."""
        lines = list(differences(robot, self))
        if lines:
            raise ContractMismatchError(
                f"robot {robot.name!r} is not the one that the server's policy was trained for "
                f"({self.robot.name!r}); no command was sent:\n  " + "\n  ".join(lines) + "\n"
                "Serve a checkpoint of this robot, or correct its YAML (`rdt robot explain` prints it)."
            )


def differences(robot: Embodiment, contract: Contract) -> Iterator[str]:
    """One line for each thing in which a robot is not the contract's."""
    policy = contract.robot
    for name, unit in (("rate_hz", " Hz"), ("control", ""), ("action_offset_steps", " steps")):
        here, there = getattr(robot, name), getattr(policy, name)
        if here != there:
            yield f"{name}: the robot has {here}{unit}, the policy {there}{unit}"
    here_rows, there_rows = _rows(robot), _rows(policy)
    if len(here_rows) != len(there_rows):
        yield f"the robot has {len(here_rows)} native entries, the policy {len(there_rows)}"
    for place, (here, there) in enumerate(zip(here_rows, there_rows, strict=False)):
        if here != there:
            yield f"entry {place}: the robot has {here}, the policy {there}"
    for role in contract.cameras:
        if policy.cameras[role].required and role not in robot.cameras:
            yield f"camera {role}: the policy needs it, the robot has {list(robot.cameras) or 'none'}"


def native_statistics(robot: Embodiment, statistics: Mapping[str, Any]) -> dict[str, Any]:
    """Of a checkpoint's `statistics.json` what concerns a robot: lists in its native order, unified units."""
    counts = {key: statistics[key] for key in ("num_episodes", "num_steps")}
    of_slots = {
        kind: {name: [values[slot] for slot in robot.slots] for name, values in statistics[kind].items()}
        for kind in ("state", "action")
    }
    return {**counts, **of_slots}


def _rows(robot: Embodiment) -> list[str]:
    """What each native entry is, in words that are equal exactly where the entries are."""
    return [f"{entry.side}_{entry.name} ({SLOT_NAMES[entry.slot]}{_words(entry.part)})" for entry in robot.entries]


def _words(part: Joint | Gripper | None) -> str:
    if isinstance(part, Joint):
        return f", {part.unit}, sign {part.sign:+d}"
    if isinstance(part, Gripper):
        state, action = ("{:g}..{:g}".format(*range_) for range_ in (part.state_range, part.action_range))
        return f", state {state}, action {action}"
    return ""
