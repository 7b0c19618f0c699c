"""Other chunk lengths, frames and cameras for a trained network: its position tables, row by row (spec rdt.md 3.8).

Only three tensors of a checkpoint depend on these numbers, and each of their rows means something: a single token,
an action's place in the chunk, a frame of a camera. A row that keeps its meaning is copied, bit by bit:

    x_pos_embed           timestep, control frequency, state; action k stays action k
    img_cond_pos_embed    a frame is counted back from the newest, a camera goes by its role
    lang_cond_pos_embed   token k stays token k

A new row takes the sin-cos row with which training would have begun, by the checkpoint's own split of columns: a
frame older than all goes on downwards (-1, -2, ...), a camera that the checkpoint lacks takes the next free number.
Left out: other numbers of patches (interpolation on the picture's grid), which come with another vision encoder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data_pipeline.schema.types import CAMERA_ROLES
from rdt.model.position import Layout, condition_table, grid_rows, sequence_table
from rdt.model.presets import RDTConfig
from rdt.model.transformer import NUM_PREFIX_TOKENS

X_TABLE = "model.x_pos_embed"
LANG_TABLE = "model.lang_cond_pos_embed"
IMG_TABLE = "model.img_cond_pos_embed"


@dataclass(frozen=True)
class TableAccount:
    """What became of one table; each entry names some of its rows."""

    name: str
    rows_before: int
    rows_now: int
    kept: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.rows_before} -> {self.rows_now} rows"]
        for title, entries in (("kept", self.kept), ("new", self.new), ("dropped", self.dropped)):
            if entries:
                lines.append(f"  {title:8s}{', '.join(entries)}")
        return "\n".join(lines)


@dataclass(frozen=True)
class ResizeAccount:
    """What was kept and what is new, for the tables that were asked to change; print it."""

    tables: tuple[TableAccount, ...]

    def __str__(self) -> str:
        return "\n".join(str(table) for table in self.tables)


def resize_positions(
    state: Mapping[str, Tensor],
    config: RDTConfig,
    *,
    pred_horizon: int | None = None,
    image_history: int | None = None,
    cameras: Sequence[str] | None = None,
    checkpoint_cameras: Sequence[str] | None = None,
    max_lang_cond_len: int | None = None,
) -> tuple[dict[str, Tensor], RDTConfig, ResizeAccount]:
    """The state dict, the config and the account of a network of other lengths; None leaves a length as it is.

    `cameras` are roles in the order in which their tokens will stand, `checkpoint_cameras` those in which they stood:
    without it external, right_wrist, left_wrist, as far as the checkpoint has cameras. All other tensors are handed
    on as they are. Raises `ValueError` where the checkpoint does not say what its rows mean.
    """
    state, accounts, width = dict(state), [], config.hidden_size
    _check_positive(pred_horizon=pred_horizon, image_history=image_history, max_lang_cond_len=max_lang_cond_len)
    if pred_horizon is not None:
        state[X_TABLE], account = _resize_rows(X_TABLE, state[X_TABLE], sequence_table(width, pred_horizon), "action")
        accounts.append(account)
        config = dataclasses.replace(config, pred_horizon=pred_horizon)
    if max_lang_cond_len is not None:
        layout = _resize_lang_layout(config.lang_pos_embed_config, max_lang_cond_len)
        table = condition_table(width, max_lang_cond_len, layout)
        state[LANG_TABLE], account = _resize_rows(LANG_TABLE, state[LANG_TABLE], table, "token")
        accounts.append(account)
        config = dataclasses.replace(config, max_lang_cond_len=max_lang_cond_len, lang_pos_embed_config=layout)
    if image_history is not None or cameras is not None:
        state[IMG_TABLE], config, account = _resize_images(
            state[IMG_TABLE], config, image_history, cameras, checkpoint_cameras
        )
        accounts.append(account)
    return state, config, ResizeAccount(tuple(accounts))


def _check_positive(**lengths: int | None) -> None:
    for name, length in lengths.items():
        if length is not None and length < 1:
            raise ValueError(f"{name} must be at least 1, got {length}")


def _resize_rows(name: str, before: Tensor, fresh: np.ndarray, noun: str) -> tuple[Tensor, TableAccount]:
    """Row k stays row k; for `x_pos_embed` the first three are no actions."""
    prefix = NUM_PREFIX_TOKENS if name == X_TABLE else 0
    kept = min(before.shape[1], len(fresh))
    table = torch.from_numpy(fresh)[None].to(before.device, before.dtype)
    table[:, :kept] = before[:, :kept]
    account = TableAccount(
        name=name,
        rows_before=before.shape[1],
        rows_now=len(fresh),
        kept=(("timestep", "control frequency", "state")[:prefix] + _span(noun, prefix, kept, prefix)),
        new=_span(noun, kept, len(fresh), prefix),
        dropped=_span(noun, kept, before.shape[1], prefix),
    )
    return table, account


def _span(noun: str, first: int, end: int, offset: int) -> tuple[str, ...]:
    """Rows `first` to `end` - 1 in words."""
    first, last = first - offset, end - 1 - offset
    if last < first:
        return ()
    return (f"{noun} {first}",) if first == last else (f"{noun}s {first} to {last}",)


def _resize_lang_layout(layout: Layout | None, length: int) -> Layout | None:
    if layout is None:
        return None
    if len(layout) != 1 or not isinstance(layout[0][1], int):
        raise ValueError(f"lang_pos_embed_config {layout} does not say what a new token is: expected one length")
    ((name, extent),) = layout
    return ((name, length if extent > 0 else -length),)


def _resize_images(
    before: Tensor,
    config: RDTConfig,
    image_history: int | None,
    cameras: Sequence[str] | None,
    checkpoint_cameras: Sequence[str] | None,
) -> tuple[Tensor, RDTConfig, TableAccount]:
    name, grid = _image_grid(config.img_pos_embed_config)
    had_frames, num_had, patches = (abs(size) for size in grid)
    had = _checkpoint_roles(num_had, checkpoint_cameras)
    cameras = had if cameras is None else tuple(cameras)
    if not cameras or len(set(cameras)) < len(cameras):
        raise ValueError(f"cameras must be different roles, at least one, got {list(cameras)}")
    frames = had_frames if image_history is None else image_history
    unknown = [role for role in cameras if role not in had]
    number = {role: i for i, role in enumerate([*had, *unknown])}  # coordinate on the checkpoint's camera axis

    # coordinates of all new tokens on the checkpoint's grid: newest frame last, whatever came before it
    frame_axis = np.arange(had_frames - frames, had_frames)
    camera_axis = np.array([number[role] for role in cameras])
    coordinates = np.stack(np.meshgrid(frame_axis, camera_axis, np.arange(patches), indexing="ij"))
    coordinates = coordinates.reshape(3, -1)  # (axis, token)
    table = torch.from_numpy(grid_rows(config.hidden_size, grid, coordinates))
    table = table.to(before.device, before.dtype)

    frame, camera, patch = coordinates
    known = (frame >= 0) & (camera < num_had)
    source = (frame * num_had + camera) * patches + patch
    table[torch.from_numpy(known)] = before[0, torch.from_numpy(source[known])]

    now = {(f, number[role]) for f in frame_axis for role in cameras}
    existed = {(f, c) for f in range(had_frames) for c in range(num_had)}
    roles = [*had, *unknown]
    account = TableAccount(
        name=IMG_TABLE,
        rows_before=before.shape[1],
        rows_now=len(table),
        kept=_pictures(now & existed, roles, had_frames),
        new=_pictures(now - existed, roles, had_frames),
        dropped=_pictures(existed - now, roles, had_frames),
    )
    new_grid = tuple(
        size if sign > 0 else -size for size, sign in zip((frames, len(cameras), patches), grid, strict=True)
    )
    config = dataclasses.replace(config, img_cond_len=len(table), img_pos_embed_config=((name, new_grid),))
    return table[None], config, account


def _image_grid(layout: Layout | None) -> tuple[str, Sequence[int]]:
    if layout is None or len(layout) != 1 or isinstance(layout[0][1], int) or len(layout[0][1]) != 3:
        raise ValueError(
            f"img_pos_embed_config {layout} does not say which rows are which frame and camera: expected one grid "
            '[["image", [frames, cameras, patches]]] in config.json; write it there if you know it'
        )
    return layout[0]  # type: ignore[return-value]


def _checkpoint_roles(count: int, given: Sequence[str] | None) -> tuple[str, ...]:
    roles = tuple(CAMERA_ROLES[:count] if given is None else given)
    if len(roles) != count or len(set(roles)) != count:
        raise ValueError(
            f"the checkpoint has {count} cameras, got the roles {list(roles)} for them: "
            "name each once in `checkpoint_cameras`, in the order of its tokens"
        )
    return roles


def _pictures(pairs: set[tuple[int, int]], roles: Sequence[str], had_frames: int) -> tuple[str, ...]:
    """(frame, camera) coordinates in words, newest frame first."""
    words = []
    for frame in sorted({frame for frame, _ in pairs}, reverse=True):
        age = had_frames - 1 - frame
        seen = " + ".join(roles[camera] for f, camera in sorted(pairs) if f == frame)
        words.append(f"{seen} of {'the newest frame' if age == 0 else f'frame -{age}'}")
    return tuple(words)
