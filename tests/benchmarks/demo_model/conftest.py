"""One thread, as in training."""

import torch

torch.set_num_threads(1)
