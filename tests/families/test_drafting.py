"""Models whose drafts need what vLLM knows of the stock class alone; the others are refused in
tests/real/families/test_refused.py."""

from types import SimpleNamespace

import pytest

from vllm_script.families.gemma4 import Gemma4Family
from vllm_script.families.pixtral import PixtralFamily

EAGLE = {"method": "eagle", "model": "x", "num_speculative_tokens": 2}
NGRAM = {"method": "ngram", "num_speculative_tokens": 2}


def arguments(speculative_config=None):
    """What the operator gave of speculation."""
    unused = dict.fromkeys(["spec_method", "spec_model", "spec_tokens"])
    return SimpleNamespace(speculative_config=speculative_config, **unused)


@pytest.mark.parametrize("family", [Gemma4Family, PixtralFamily])
def test_a_model_that_drafts_is_refused(family):
    with pytest.raises(ValueError, match=r"by eagle, for which .* another method \(ngram, suffix"):
        family().check(arguments(EAGLE), None)
    family().check(arguments(NGRAM), None)
    family().check(arguments(), None)
