"""Records of the 48 datasets with a known robot behind them.

`TABLE` says in its own words, not the YAML's, what a record of each dataset looks like: the fields with the parts of
which their numbers consist (spec data.md section 2), rate, weight, slots (rdt.md section 8), cameras, text field.
`make_record` writes a robot's states down in that convention; `expected_states` says what must come back.

Parts of a field, in the order of its numbers ("L" before a part means the left arm):
    J7 JV7      joint positions and velocities           P   position       Pxy  its x and y
    JJV7        position and velocity of each joint in turn
    Q           quaternion xyzw                          E   roll pitch yaw      Ezyx Ezxy  the same in another order
    A           axis times angle                         M   4 x 4 pose, its columns one after the other
    V W         linear and angular velocity of the hand  G g1 g2  gripper openings
    B0 B1 B BW  base velocity x, y, both; turning rate   u5  five numbers that mean nothing
A part may be followed by *k or /k: the file holds the quantity times or divided by k; 1-G is a closedness.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from data_pipeline.schema import rotation
from data_pipeline.schema.layout import NUM_SLOTS
from data_pipeline.sources.raw import FieldSpec, RawEpisode

STEPS = 40
TEXT, CLEANED = "pick_up the red-cup", "Pick up the red cup."
C = "_converted_externally_to_rlds"
STATE, NLI, LI = "observation/state", "observation/natural_language_instruction", "language_instruction"


@dataclass(frozen=True)
class Row:
    hz: float
    weight: int  # 0: not in the mixture
    slots: str
    fields: dict[str, str]  # path -> parts; "state" and the like stand for observation/...
    cameras: str  # external, right wrist, left wrist; "-" where there is none
    text: str = ""  # path of the instruction; empty: the mapping has a constant
    extra: str = ""
    colour: str = "rgb"
    metadata: dict = field(default_factory=dict)  # what an episode that is kept says of itself
    says: str = TEXT


TABLE = {
    "fractal20220817_data": Row(
        3, 271, "10 30-38 100-102",
        {"base_pose_tool_reached": "P Q", "gripper_closed": "1-G", "action/base_displacement_vector": "B/3",
         "action/base_displacement_vertical_rotation": "BW/3"}, "image - -", NLI),
    "jaco_play": Row(
        10, 33, "0-5 10-11 30-41",
        {"joint_pos": "J6 G g1", "end_effector_cartesian_pos": "P Q", "end_effector_cartesian_velocity": "V u3"},
        "image image_wrist -", NLI),
    "taco_play": Row(15, 60, "0-6 10 30-38", {"robot_obs": "P E G/12.3843 J7 u1"}, "rgb_static rgb_gripper -", NLI),
    "berkeley_cable_routing": Row(10, 8, "30-38", {"robot_state": "P Q"}, "image wrist45_image -", extra="top_image"),
    "viola": Row(
        20, 12, "0-6 10 30-38", {"joint_states": "J7", "gripper_states": "G/12.905", "ee_states": "M"},
        "agentview_rgb eye_in_hand_rgb -", NLI),
    "berkeley_autolab_ur5": Row(5, 32, "0-5 10 30-38", {"robot_state": "J6 P Q 1-G u1"}, "image hand_image -", NLI),
    "toto": Row(30, 32, "0-6", {"state": "J7"}, "image - -", NLI),
    "nyu_door_opening_surprising_effectiveness": Row(
        3, 10, "10 39-44",
        {"action/world_vector": "V/3", "action/rotation_delta": "W/3", "action/gripper_closedness_action": "1-G"},
        "image - -"),
    "columbia_cairlab_pusht_real": Row(10, 12, "30-31", {"robot_state": "Pxy"}, "image wrist_image -", NLI),
    "stanford_kuka_multimodal_dataset" + C: Row(
        20, 55, "0-6 10 15-21 30-44",
        {"joint_pos": "J7", "joint_vel": "JV7", "state": "u7 G", "ee_position": "P", "ee_orientation": "Q",
         "ee_vel": "V", "ee_orientation_vel": "W"}, "image - -", LI),
    "austin_buds_dataset" + C: Row(20, 7, "0-6 10 30-38", {"state": "J7 G/12.5 M"}, "image wrist_image -", LI),
    "kuka": Row(
        10, 50, "10 30-38 100-102",
        {"clip_function_input/base_pose_tool_reached": "P Q", "gripper_closed": "1-G",
         "action/base_displacement_vector": "B/10", "action/base_displacement_vertical_rotation": "BW/10"},
        "image - -", NLI, metadata={"success": True}),
    "utokyo_xarm_bimanual" + C: Row(
        10, 1, "10 30-38 60 80-88", {"action_l": "LP LEzyx 1-LG", "action_r": "P Ezyx 1-G"}, "image - -", LI,
        says="Unfold a wrinkled towel."),
    "stanford_hydra_dataset" + C: Row(
        10, 24, "0-6 10-12 15-21 30-38", {"state": "P u4 E J7 JV7 G/12.324 g1 g2"}, "image wrist_image -", LI),
    "maniskill_dataset" + C: Row(20, 174, "0-6 10-11", {"state": "J7 G/25 g1/25 u9"}, "image wrist_image -", LI),
    "ucsd_kitchen_dataset" + C: Row(2, 12, "0-6 15-21", {"state": "J7 JV7 u7"}, "image - -", LI),
    "ucsd_pick_and_place_dataset" + C: Row(
        3, 37, "10 30-38", {"state": "P*10 E G*6.03"}, "image - -", LI, metadata={"episode_metadata/success": True}),
    "austin_sailor_dataset" + C: Row(
        20, 15, "0-6 10 30-38", {"state_joint": "J7", "state": "P Q G/12.85"}, "image wrist_image -", LI),
    "austin_sirius_dataset" + C: Row(
        20, 24, "0-6 10 30-38", {"state": "J7 G/12.55", "state_ee": "M"}, "image wrist_image -", LI),
    "bc_z": Row(
        10, 208, "10 30-38", {"present/xyz": "P", "present/axis_angle": "A", "present/sensed_close": "1-G"},
        "image - -", NLI),
    "utokyo_pr2_opening_fridge" + C: Row(
        10, 9, "10 30-38", {"state": "P*1000 E G*86.65511265164645"}, "image - -", LI),  # 1000 / 11.54
    "utokyo_pr2_tabletop_manipulation" + C: Row(
        10, 15, "10 30-38", {"state": "P*1000 E G*86.12126922607422"}, "image - -", LI),
    "utokyo_xarm_pick_and_place" + C: Row(
        10, 10, "0-6 30-38", {"joint_state": "J7 u7", "end_effector_pose": "P Ezyx"}, "image hand_image -", LI,
        extra="image2"),
    "berkeley_mvp" + C: Row(
        5, 22, "0-6 10 30-38", {"joint_pos": "J7", "pose": "P Q", "gripper": "1-G"}, "- hand_image -", LI),
    "berkeley_rpt" + C: Row(30, 30, "0-6 10", {"joint_pos": "J7", "gripper": "1-G"}, "- hand_image -", LI),
    "kaist_nonprehensile" + C: Row(10, 14, "0-6 15-21 30-38", {"state": "JJV7 P Q"}, "image - -", LI),
    "tokyo_u_lsmo" + C: Row(10, 7, "0-5 10 30-38", {"state": "P E J6 1-G"}, "image - -", LI),
    "dlr_sara_grid_clamp" + C: Row(10, 1, "30-38", {"state": "P Ezxy u6"}, "image - -"),
    "stanford_robocook" + C: Row(5, 50, "10 30-38", {"state": "P E G/13.03"}, "image_2 - -", LI, extra="image_4"),
    "imperialcollege_sawyer_wrist_cam": Row(10, 13, "10 39-44", {"action": "V/10 W/10 1-G u1"}, "- wrist_image -", LI),
    "iamlab_cmu_pickup_insert" + C: Row(20, 25, "0-6 10", {"state": "J7 G u12"}, "image wrist_image -", LI),
    "utaustin_mutex": Row(20, 39, "0-6 10 30-38", {"state": "J7 G/13.21 M"}, "image wrist_image -", LI),
    "berkeley_fanuc_manipulation": Row(
        10, 20, "0-5 10 30-38", {"state": "J6 1-G u6", "end_effector_state": "P Q"}, "image wrist_image -", LI),
    "cmu_play_fusion": Row(5, 24, "0-6 10", {"state": "J7 G/11.765"}, "image - -", LI),
    "language_table": Row(10, 100, "30-31", {"effector_translation": "Pxy"}, "rgb - -", "observation/instruction"),
    "furniture_bench_dataset" + C: Row(
        10, 71, "0-6 10 15-21 30-44", {"state": "P Q V W J7 JV7 u7 G/12.507"}, "image wrist_image -", LI),
    "droid": Row(
        15, 303, "0-6 10 30-38", {"joint_position": "J7", "gripper_position": "1-G", "cartesian_position": "P E"},
        "exterior_image_1_left wrist_image_left -", LI, extra="exterior_image_2_left",
        metadata={"episode_metadata/file_path": "lab/success/2023-05-01/trajectory.h5"}),
    "fmb": Row(
        10, 42, "0-6 10 15-21 30-44",
        {"joint_pos": "J7", "joint_vel": "JV7", "state_gripper_pose": "1-G", "eef_pose": "P Q", "eef_vel": "V W"},
        "image_side_1 image_wrist_1 -", LI, extra="image_side_2", colour="bgr"),
    "dobbe": Row(30, 36, "10 30-38", {"gripper": "G", "xyz": "P", "rot": "E"}, "- wrist_image -", LI),
    "qut_dexterous_manpulation": Row(
        30, 14, "0-6 10-11 15-21 30-38", {"state": "P Q J7 G/24.707 g1/24.707 JV7"}, "image wrist_image -", LI),
    "aloha_mobile": Row(
        50, 150, "0-5 10 15-20 50-55 60 65-70 100 102",
        {"observations/qpos": "LJ6 LG J6 G", "observations/qvel": "LJV6 u1 JV6 u1", "base_action": "B0 BW"},
        "cam_high cam_right_wrist cam_left_wrist", "instruction", colour="bgr"),
    "aloha_static": Row(
        50, 150, "0-5 10 15-20 50-55 60 65-70",
        {"observations/qpos": "LJ6 LG J6 G", "observations/qvel": "LJV6 u1 JV6 u1"},
        "cam_high cam_right_wrist cam_left_wrist", "instruction", extra="cam_low", colour="bgr"),
    "roboset": Row(5, 135, "0-6 10", {"qpos": "J7", "qpos_gripper": "G"}, "rgb_top rgb_right rgb_left", "instruction"),
    "rh20t": Row(
        10, 331, "0-6 10 30-38", {"/joint": "J7", "/tcp_base": "P Q", "/gripper": "G*110 u2"}, "/image - -",
        "instruction"),
    "calvin": Row(
        30, 100, "0-6 10 30-38", {"robot_obs": "P E u1 J7 2G-1"}, "rgb_static rgb_gripper -", "instruction"),
    "bridgev2": Row(5, 224, "0-5 10 30-38", {"qpos": "J6", "state": "P E G"}, "images0 - -", "language"),
    "droid_raw": Row(
        15, 0, "0-6 10 30-38",
        {"robot_state/joint_positions": "J7", "robot_state/gripper_position": "1-G",
         "robot_state/cartesian_position": "P E"}, "/ext1 /wrist -", LI, extra="/ext2",
        metadata={"episode_metadata/success": True}),
    "agilex": Row(
        25, 0, "0-5 10 50-55 60",
        {"observations/qpos": "LJ6 LG*4.7908 J6 G*4.7888", "action": "LJ6 LG*11.8997 J6 G*13.9231"},
        "cam_high cam_right_wrist cam_left_wrist", "sidecar:instruction", colour="bgr"),
}  # fmt: skip


def robot(seed: int, steps: int = STEPS) -> dict[str, np.ndarray]:
    """What a two-armed robot with a base does: quantity -> (steps, n) in SI units and openings."""
    rng = np.random.default_rng(seed)
    known: dict[str, np.ndarray] = {}
    for side in ("", "L"):
        axis = rng.normal(size=(steps, 3))
        turn = axis / np.linalg.norm(axis, axis=1, keepdims=True) * rng.uniform(0.1, 3.0, size=(steps, 1))
        known[side + "R"] = rotation.matrix_from_axis_angle(turn)
        known[side + "J"], known[side + "JV"] = rng.uniform(-2, 2, (2, steps, 7))
        known[side + "P"], known[side + "V"], known[side + "W"] = rng.uniform(-1, 1, (3, steps, 3))
        known[side + "G"], known[side + "g1"], known[side + "g2"] = rng.uniform(0, 0.6, (3, steps, 1))
    known["B"], known["BW"] = rng.uniform(-1, 1, (steps, 2)), rng.uniform(-1, 1, (steps, 1))
    return known


def _part(text: str, known: dict[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """(steps, n) numbers of one part in the file's convention."""
    steps = len(known["P"])
    if text in ("B0", "B1"):
        return known["B"][:, [int(text[1])]]
    inverted, doubled = text.startswith("1-"), text == "2G-1"
    text = "G" if doubled else text.removeprefix("1-")
    text, sign, factor = text.partition("*") if "*" in text else text.partition("/")
    side, name = ("L", text[1:]) if text.startswith("L") else ("", text)
    count = int(re.search(r"\d+$", name)[0]) if re.search(r"^(J|JV|JJV|u)\d+$", name) else 0
    kind = name.rstrip("0123456789") if count else name
    R = known[side + "R"]
    if kind == "u":
        values = rng.uniform(-1, 1, (steps, count))
    elif kind in ("J", "JV"):
        values = known[side + kind][:, :count]
    elif kind == "JJV":
        values = np.stack([known[side + "J"], known[side + "JV"]], axis=2).reshape(steps, -1)
    elif kind == "Pxy":
        values = known[side + "P"][:, :2]
    elif kind == "Q":
        values = rotation.quaternion_from_matrix(R)
    elif kind == "A":
        values = rotation.axis_angle_from_matrix(R)
    elif kind.startswith("E"):
        values = rotation.euler_from_matrix(R)[:, ["xyz".index(axis) for axis in kind[1:] or "xyz"]]
    elif kind == "M":
        pose = np.tile(np.eye(4), (steps, 1, 1))
        pose[:, :3, :3], pose[:, :3, 3] = R, known[side + "P"]
        values = pose.swapaxes(1, 2).reshape(steps, 16)
    else:
        values = known[side + kind]
    if sign:
        values = values * float(factor) if sign == "*" else values / float(factor)
    return 1 - values if inverted else 2 * values - 1 if doubled else values


def full_path(path: str) -> str:
    """A short name of the table as the source spells it."""
    if path.startswith("/"):
        return path[1:]
    if path.startswith("cam_"):
        return f"observations/images/{path}"
    whole = path.startswith(("action", "observations/", "base_action"))
    return path if whole and path not in ("action_l", "action_r") else f"observation/{path}"


def camera_paths(row: Row) -> dict[str, str]:
    """Camera role -> path, those that are there."""
    roles = zip(("external", "right_wrist", "left_wrist"), row.cameras.split(), strict=True)
    return {role: full_path(path) for role, path in roles if path != "-"}


def pixel(path: str) -> np.ndarray:
    """The RGB colour of every frame of one camera."""
    return np.array([sum(map(ord, path)) % 200, 10, 250], dtype=np.uint8)


def make_record(
    name: str, known: dict[str, np.ndarray], changed: dict[str, str] | None = None, says: str | None = None
) -> RawEpisode:
    """A record of the dataset, `changed` fields made of other parts."""
    row, steps, rng = TABLE[name], len(known["P"]), np.random.default_rng(0)
    parts = {**row.fields, **(changed or {})}
    fields: dict[str, np.ndarray] = {}
    for path, text in parts.items():
        values = np.concatenate([_part(part, known, rng) for part in text.split()], axis=1)
        fields[full_path(path)] = values[:, 0] if values.shape[1] == 1 and "gripper" in path else values
    images = {}
    for path in [*camera_paths(row).values(), *map(full_path, row.extra.split())]:
        colour = pixel(path) if row.colour == "rgb" else pixel(path)[::-1]
        images[path] = np.broadcast_to(colour, (steps, 2, 3, 3))
    metadata, sidecar = dict(row.metadata), {}
    text = row.says if says is None else says
    if name == "language_table":
        codes = np.zeros((steps, 64), dtype=np.int32)
        codes[:, : len(text)] = [ord(letter) for letter in text]
        fields[row.text] = codes
    elif row.text.startswith("sidecar:"):
        sidecar = {row.text.removeprefix("sidecar:"): text}
    elif row.text in (LI, NLI):
        for path in [row.text, *([f"{LI}_2", f"{LI}_3"] if name.startswith("droid") else [])]:
            fields[path] = np.array([text] * steps, dtype=object)
    elif row.text:
        metadata[row.text] = [text]
    if name == "bc_z":
        fields["observation/episode_success"] = np.ones(steps, dtype=np.float32)
    return RawEpisode(f"{name}/episode_0", steps, fields, images, metadata, None, sidecar)


def field_specs(record: RawEpisode) -> dict[str, FieldSpec]:
    """What a source would promise of such records."""
    specs = {}
    for path, values in record.fields.items():
        text = values.dtype == object
        specs[path] = FieldSpec("text" if text else "array", () if text else values.shape[1:], str(values.dtype))
    specs |= {path: FieldSpec("image", frames.shape[1:], "uint8") for path, frames in record.images.items()}
    return specs | {path: FieldSpec("text") for path in record.metadata if "/" not in path}


def slots_of(text: str) -> list[int]:
    """ "0-2 10" -> 0, 1, 2, 10."""
    bounds = [part.split("-") for part in text.split()]
    return [slot for b in bounds for slot in range(int(b[0]), int(b[-1]) + 1)]


def unified(known: dict[str, np.ndarray]) -> np.ndarray:
    """Every quantity in its slot: (steps, 128)."""
    vectors = np.zeros((len(known["P"]), NUM_SLOTS))
    for offset, side in ((0, ""), (50, "L")):
        R = known[side + "R"]
        for slot, values in (
            (0, known[side + "J"]),
            (10, known[side + "G"]),
            (11, known[side + "g1"]),
            (12, known[side + "g2"]),
            (15, known[side + "JV"]),
            (30, known[side + "P"]),
            (33, np.concatenate([R[:, :, 0], R[:, :, 1]], axis=1)),
            (39, known[side + "V"]),
            (42, known[side + "W"]),
        ):
            vectors[:, offset + slot : offset + slot + values.shape[1]] = values
    vectors[:, 100:102], vectors[:, 102:103] = known["B"], known["BW"]
    return vectors


def expected_states(name: str, known: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """States (steps, 128) and mask: the robot's quantities in the dataset's slots, commands one step late."""
    whole, mask = unified(known), np.zeros(NUM_SLOTS, dtype=bool)
    mask[slots_of(TABLE[name].slots)] = True
    late = [39, 40, 41, 42, 43, 44, 10] if any("world_vector" in p or p == "action" for p in TABLE[name].fields) else []
    late = [100, 101, 102] + (late if name != "agilex" else [])
    whole[:, late] = np.concatenate([np.zeros((1, len(late))), whole[:-1][:, late]])
    return np.where(mask, whole, 0), mask
