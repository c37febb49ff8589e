"""The Triton kernel of graph reduction: all rounds of all images in one launch.

Programs work in teams, and a team takes one image after the other. A round has three phases,
between which the programs of a team wait for each other: the mean similarity, the edges, the drop.
Nothing is computed but sums over the triangle of similarities, and nothing is added atomically.
"""

from __future__ import annotations

from .._launch import grid_barrier
from .._triton import jit, tl
from .drop import drop
from .edges import count_edges, sum_tile, threshold_of_round


@jit(
    varying=(
        *("tau_relative", "num_images", "num_positions", "max_tiles", "num_teams", "num_rounds"),
        "first_phase",
    )
)
def _reduce_kernel(
    similarity_ptr,
    plan_ptr,
    order_ptr,
    rows_ptr,
    counts_ptr,
    open_ptr,
    sums_ptr,
    degree_ptr,
    strength_ptr,
    arrivals_ptr,
    tau,
    tau_relative,
    gamma,
    num_images,
    num_positions,
    max_tiles,
    num_teams,
    num_rounds,
    first_phase,
    TOGETHER: tl.constexpr,
    MAX_DROP: tl.constexpr,
    DUPLICATE_SIMILARITY: tl.constexpr,
    BLOCK_TILE: tl.constexpr,
    BLOCK_SUMS: tl.constexpr,
    BLOCK_PAIRS: tl.constexpr,
):
    """All rounds of some images, or of the windows of a video.

    plan int64 [5, images]: first position, length, target, first row, start of the triangle
    order int64 [positions] or None: the rows that are at each position; None: in their order
    rows int64 [positions], counts int64 [images]: the pool; what it was before a round until drop
    open int32 [images]: whether the image is above its target and its last round dropped something
    sums float32 [images, max_tiles]; degree int32, strength float32 [blocks, positions]: of a round
    arrivals int32 [teams], all 0
    grid: num_teams * programs of a team; drop and start are of the first program of a team alone
    """
    team, member = tl.program_id(0) % num_teams, tl.program_id(0) // num_teams
    team_size = tl.num_programs(0) // num_teams
    num_waits = 0
    for image in range(team, num_images, num_teams):
        first = tl.load(plan_ptr + image)
        length = tl.load(plan_ptr + num_images + image).to(tl.int32)
        target = tl.load(plan_ptr + 2 * num_images + image).to(tl.int32)
        first_row = tl.load(plan_ptr + 3 * num_images + image)
        triangle_ptr = similarity_ptr + tl.load(plan_ptr + 4 * num_images + image)
        own_rows_ptr = rows_ptr + first
        own_sums_ptr = sums_ptr + tl.cast(image, tl.int64) * max_tiles
        phase, is_open = first_phase, 1
        last_phase = first_phase + 1
        if TOGETHER:
            last_phase = 1 + 3 * num_rounds
        while (phase < last_phase) & (is_open > 0):
            step = (phase + 2) % 3
            if phase == 0:
                if member == 0:
                    _start(order_ptr, own_rows_ptr, first, first_row, length, BLOCK_PAIRS)
                    tl.store(counts_ptr + image, length.to(tl.int64))
                    tl.store(open_ptr + image, (length > target).to(tl.int32))
            elif (step < 2) | (member == 0):
                # The first program closes an image in step 2, where no other may look.
                is_open = tl.load(open_ptr + image)
                if is_open > 0:
                    parity = ((phase - 1) // 3) % 2
                    count = tl.load(counts_ptr + image).to(tl.int32)
                    num_src = (count - parity + 1) // 2
                    num_dst = count - num_src
                    src_blocks = (num_src + BLOCK_TILE - 1) // BLOCK_TILE
                    num_tiles = src_blocks * ((num_dst + BLOCK_TILE - 1) // BLOCK_TILE)
                    if step == 0:
                        for tile in range(member, num_tiles * tau_relative, team_size):
                            sum_tile(
                                tile,
                                src_blocks,
                                count,
                                parity,
                                triangle_ptr,
                                own_rows_ptr,
                                first_row,
                                own_sums_ptr,
                                BLOCK_TILE,
                            )
                    else:
                        threshold = threshold_of_round(
                            num_tiles,
                            num_src,
                            num_dst,
                            tau,
                            tau_relative,
                            own_sums_ptr,
                            DUPLICATE_SIMILARITY,
                            BLOCK_SUMS,
                        )
                        if step == 1:
                            for tile in range(member, num_tiles, team_size):
                                count_edges(
                                    tile,
                                    src_blocks,
                                    count,
                                    parity,
                                    threshold,
                                    triangle_ptr,
                                    own_rows_ptr,
                                    first_row,
                                    degree_ptr + first,
                                    strength_ptr + first,
                                    num_positions,
                                    BLOCK_TILE,
                                )
                        else:
                            remaining = drop(
                                count,
                                target,
                                parity,
                                threshold,
                                gamma,
                                own_rows_ptr,
                                degree_ptr + first,
                                strength_ptr + first,
                                num_positions,
                                MAX_DROP,
                                BLOCK_TILE,
                                BLOCK_PAIRS,
                            )
                            tl.store(counts_ptr + image, remaining.to(tl.int64))
                            # An idle round found no edge, and swapped roles look at the same ones.
                            stays_open = (remaining > target) & (remaining < count)
                            tl.store(open_ptr + image, stays_open.to(tl.int32))
            if TOGETHER:
                num_waits += 1
                grid_barrier(arrivals_ptr + team, num_waits * team_size)
            phase += 1


@jit
def _start(order_ptr, rows_ptr, first, first_row, length, BLOCK: tl.constexpr):
    """All rows of an image survive so far."""
    for start in range(0, length, BLOCK):
        position = start + tl.arange(0, BLOCK)
        mask = position < length
        if order_ptr is None:
            row = position.to(tl.int64)
        else:
            row = tl.load(order_ptr + first + position, mask=mask, other=0)
        tl.store(rows_ptr + position, first_row + row, mask=mask)
