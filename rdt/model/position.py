"""Sin-cos tables with which the learned positions of RDT start (spec rdt.md section 3.3).

A layout names what stands along a token axis, in order, each entry with a length or with a grid:
`[["lang", -1024]]`, `[["image", [2, 3, -729]]]`. A negative number counts tokens that share one position.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int

Layout = Sequence[tuple[str, int | Sequence[int]]]


def sincos(width: int, positions: np.ndarray) -> Float64[np.ndarray, "position width"]:
    """Rows `[sin(p w_i), cos(p w_i)]`, `w_i = 10000^(-i / (width / 2))`: here the sines come first."""
    omega = 10000.0 ** (-np.arange(width // 2) / (width / 2))
    angle = np.outer(positions, omega)
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)


def grid_table(width: int, grid: Sequence[int]) -> Float64[np.ndarray, "token width"]:
    """Positions on a grid, first axis slowest; for images (frame, camera, patch).

    Each axis with a size above 1 owns an equal, even share of the columns, in axis order. Axes of size 1 and
    negative axes own none (a negative one only repeats rows), columns that are left over stay 0.
    """
    coordinates = np.indices([abs(size) for size in grid]).reshape(len(grid), -1)
    return grid_rows(width, grid, coordinates)


def grid_rows(
    width: int, grid: Sequence[int], coordinates: Int[np.ndarray, "axis token"]
) -> Float64[np.ndarray, "token width"]:
    """Rows at any coordinates, outside the grid too, by the split of columns that the grid asks for."""
    axes = [axis for axis, size in enumerate(grid) if size > 1]
    table = np.zeros((coordinates.shape[1], width))
    if not axes:  # one frame of one camera: the published code divides by zero here
        return table
    share = width // len(axes) // 2 * 2
    for k, axis in enumerate(axes):
        table[:, k * share : (k + 1) * share] = sincos(share, coordinates[axis])
    return table


def condition_table(width: int, length: int, layout: Layout | None) -> Float64[np.ndarray, "token width"]:
    """Start of `lang_cond_pos_embed` and `img_cond_pos_embed`; without a layout, plain token numbers."""
    if layout is None:
        return sincos(width, np.arange(length))
    rows = []
    for _, extent in layout:
        if isinstance(extent, int):
            rows.append(sincos(width, np.arange(extent) if extent > 0 else np.zeros(-extent)))
        else:
            rows.append(grid_table(width, extent))
    table = np.concatenate(rows)
    if len(table) != length:
        raise ValueError(f"position layout {layout} has {len(table)} tokens, the condition has {length}")
    return table


def sequence_table(width: int, horizon: int) -> Float64[np.ndarray, "token width"]:
    """Start of `x_pos_embed`: half of the columns tell the kind of token, half the position within the kind.

    Tokens: timestep, control frequency, state, then `horizon` actions.
    """
    kind = np.array([0, 1, 2] + [3] * horizon)
    within = np.array([0, 0, 0, *range(horizon)])
    return np.concatenate([sincos(width // 2, kind), sincos(width // 2, within)], axis=1)
