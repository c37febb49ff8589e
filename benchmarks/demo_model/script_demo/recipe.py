"""The stages in the order of training."""

from .stage import Stage
from .stage_clip import CLIP
from .stage_joint import JOINT
from .stage_projector import PROJECTOR
from .stage_symbols import SYMBOLS

STAGES: tuple[Stage, ...] = (CLIP, SYMBOLS, PROJECTOR, JOINT)
