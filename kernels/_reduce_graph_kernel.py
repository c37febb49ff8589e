"""The Triton kernel of reduce_graph.py: all rounds of all images in one launch.

Phase 0 starts; then each round has three: the mean similarity, the tiles of the graph, the drop.
The work of a phase is shared out anew every time, for what is left of each image is known on the
device only.
"""

from __future__ import annotations

from ._phases import meet
from ._reduce_graph_drop import drop
from ._reduce_graph_edges import edges_of_tile, mean_part, round_threshold
from ._triton import jit, tl
from ._varlen import locate


@jit(
    varying=("tau_relative", "num_images", "num_rows", "num_rounds", "first_phase"),
    any_place=("inverse_ptr",),
)
def _reduce_kernel(
    x_ptr,
    x_stride,
    inverse_ptr,
    plan_ptr,
    rows_ptr,
    counts_ptr,
    open_ptr,
    mean_parts_ptr,
    degree_ptr,
    strength_ptr,
    arrivals_ptr,
    tau,
    tau_relative,
    gamma,
    num_images,
    num_rows,
    dim,
    num_rounds,
    first_phase,
    TOGETHER: tl.constexpr,
    MAX_DROP: tl.constexpr,
    DUPLICATE_SIMILARITY: tl.constexpr,
    BLOCK_IMAGES: tl.constexpr,
    BLOCK_FEATURES: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_PARTS: tl.constexpr,
    BLOCK_PAIRS: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """plan: offsets [images + 1], then targets [images]. rows, counts: the pool.

    open [images]: whether the image is above its target and its last round dropped something.
    """
    program, num_programs = tl.program_id(0), tl.num_programs(0)
    targets_ptr = plan_ptr + num_images + 1
    num_parts = (dim + BLOCK_FEATURES - 1) // BLOCK_FEATURES
    images = tl.arange(0, BLOCK_IMAGES)
    image_mask = images < num_images

    phase, any_open = first_phase, 1
    last_phase = first_phase + 1
    if TOGETHER:
        last_phase = 1 + 3 * num_rounds
    while (phase < last_phase) & (any_open > 0):
        if phase == 0:
            for image in range(program, num_images, num_programs):
                _start(image, plan_ptr, targets_ptr, rows_ptr, counts_ptr, open_ptr, BLOCK_PAIRS)
        else:
            parity = ((phase - 1) // 3) % 2
            step = (phase - 1) % 3
            is_open = tl.load(open_ptr + images, mask=image_mask, other=0) > 0
            counts = tl.load(counts_ptr + images, mask=image_mask, other=0).to(tl.int32)
            num_src = (counts - parity + 1) // 2
            if step == 0:
                if tau_relative > 0:
                    num_items = tl.where(is_open, num_parts, 0)
                    for item in range(program, tl.sum(num_items, 0), num_programs):
                        image, part = locate(item, num_items)
                        mean_part(
                            image,
                            part,
                            parity,
                            x_ptr,
                            x_stride,
                            inverse_ptr,
                            plan_ptr,
                            rows_ptr,
                            counts_ptr,
                            mean_parts_ptr,
                            num_parts,
                            dim,
                            BLOCK_FEATURES,
                            BLOCK_TOKENS,
                        )
            elif step == 1:
                src_blocks = (num_src + BLOCK_A - 1) // BLOCK_A
                dst_blocks = (counts - num_src + BLOCK_B - 1) // BLOCK_B
                num_items = tl.where(is_open, src_blocks * dst_blocks, 0)
                for item in range(program, tl.sum(num_items, 0), num_programs):
                    image, tile = locate(item, num_items)
                    threshold = round_threshold(
                        image,
                        tau,
                        tau_relative,
                        mean_parts_ptr,
                        num_parts,
                        DUPLICATE_SIMILARITY,
                        BLOCK_PARTS,
                    )
                    edges_of_tile(
                        image,
                        tile,
                        parity,
                        threshold,
                        x_ptr,
                        x_stride,
                        inverse_ptr,
                        plan_ptr,
                        rows_ptr,
                        counts_ptr,
                        degree_ptr,
                        strength_ptr,
                        num_rows,
                        dim,
                        BLOCK_A,
                        BLOCK_B,
                        BLOCK_D,
                    )
            else:
                # Whose turn it is must not depend on what others close in this phase.
                for image in range(program, num_images, num_programs):
                    if tl.load(open_ptr + image) > 0:
                        threshold = round_threshold(
                            image,
                            tau,
                            tau_relative,
                            mean_parts_ptr,
                            num_parts,
                            DUPLICATE_SIMILARITY,
                            BLOCK_PARTS,
                        )
                        drop(
                            image,
                            parity,
                            threshold,
                            gamma,
                            plan_ptr,
                            targets_ptr,
                            rows_ptr,
                            counts_ptr,
                            open_ptr,
                            degree_ptr,
                            strength_ptr,
                            num_rows,
                            MAX_DROP,
                            BLOCK_B,
                            BLOCK_PAIRS,
                        )
        phase += 1
        if TOGETHER:
            meet(arrivals_ptr, phase * num_programs)
            # Only before the first phase of a round: others may be in the next one, and the last
            # phase of a round closes images.
            if (phase - 1) % 3 == 0:
                any_open = tl.sum(tl.load(open_ptr + images, mask=image_mask, other=0), 0)


@jit
def _start(image, plan_ptr, targets_ptr, rows_ptr, counts_ptr, open_ptr, BLOCK_PAIRS: tl.constexpr):
    """All rows of the image survive so far."""
    first, end = tl.load(plan_ptr + image), tl.load(plan_ptr + image + 1)
    for start in range(first, end, BLOCK_PAIRS):
        rows = start + tl.arange(0, BLOCK_PAIRS)
        tl.store(rows_ptr + rows, rows.to(tl.int64), mask=rows < end)
    tl.store(counts_ptr + image, end - first)
    tl.store(open_ptr + image, (end - first > tl.load(targets_ptr + image)).to(tl.int32))
