"""Boxes for explain: what changes there changes the patch that is said to be there."""

import numpy as np
import pytest
import torch
from PIL import Image

from vllm_script.benchmarks.checkpoints import WRITERS

# With random weights the patches of LLaVA-NeXT's padded tiles, which Granite Vision has too, and of
# LLaVA-NeXT-Video's pooled frames, change more by attention than the one that is painted. For these
# test_boxes.py in tests/families/ compares boxes with the processors' own pixels.
FAMILIES = [name for name in WRITERS if name not in {"llava-next", "granite-vision"}]
FILMED = [name for name in FAMILIES if name != "llava-next-video"]


def encoded(engine, content, monkeypatch):
    """What the model makes of a picture or film: features and layout."""
    model, seen = type(engine.model), []
    encode = model.encode

    def spy(self, modality, fields, thinning=None):
        seen.append(encode(self, modality, fields, thinning))
        return seen[-1]

    with monkeypatch.context() as patch:
        patch.setattr(model, "encode", spy)
        engine.forget()
        engine.ask(engine.prompt([content, "What?"]), max_tokens=1)
    (item,) = seen
    return item.features.float(), item.layout


@pytest.mark.parametrize("family", FAMILIES, indirect=True, scope="session")
@pytest.mark.parametrize(("width", "height"), [(280, 168), (100, 260)])
def test_boxes_are_where_patches_are(engine, monkeypatch, width, height):
    pixels = np.array(engine.picture(0, width, height)) // 4 + 96
    before, _ = encoded(engine, Image.fromarray(pixels), monkeypatch)
    processor = engine.llm.llm_engine.renderer.mm_processor
    layout = processor.family.image_layout(processor.info, height, width, {})
    config = processor.info.get_hf_config()
    views = processor.family.views(config, layout, height, width)
    boxes = torch.cat(list(views.values()))
    assert len(boxes) == len(before) and layout.rows.max() < len(boxes)
    first = 0
    for view in views.values():
        shown = torch.arange(first, first + len(view))
        shown = shown[(boxes[shown, 2:] - boxes[shown, :2]).amin(1) >= 4]
        for patch in shown[[0, len(shown) // 3, len(shown) // 2 + 1, -1]].tolist():
            left, top, right, bottom = boxes[patch].round().long().tolist()
            painted = pixels.copy()
            painted[top:bottom, left:right] = [255, 0, 0]
            after, _ = encoded(engine, Image.fromarray(painted), monkeypatch)
            change = (after - before).norm(dim=1)
            # Two: attention may carry a change to a neighbour, or to what minds every change.
            assert patch in shown[change[shown].topk(2).indices]
        first += len(view)


@pytest.mark.parametrize("family", FILMED, indirect=True, scope="session")
def test_boxes_are_where_patches_of_frames_are(engine, monkeypatch):
    pixels, about = engine.film(0, frames=4, width=280, height=168)
    pixels = pixels // 4 + 96
    before, layout = encoded(engine, (pixels, about), monkeypatch)
    boxes = engine.family.frame_boxes(engine.model.config, layout, 168, 280)
    assert layout.num_patches == layout.num_frames * len(boxes)
    of_one = len(pixels) // layout.num_frames  # frames of which the encoder makes one
    for frame in (0, layout.num_frames - 1):
        own = slice(frame * len(boxes), (frame + 1) * len(boxes))
        for patch in (0, len(boxes) // 2 + 1, len(boxes) - 1):
            left, top, right, bottom = boxes[patch].round().long().tolist()
            painted = pixels.copy()
            painted[frame * of_one : (frame + 1) * of_one, top:bottom, left:right] = [255, 0, 0]
            after, _ = encoded(engine, (painted, about), monkeypatch)
            change = (after - before).norm(dim=1)
            assert patch in change[own].topk(2).indices
            assert change.argmax() // len(boxes) == frame
