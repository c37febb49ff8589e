"""The engine process: from pixels to kept rows.

The life of an image (or video), in the order in which vLLM calls us:

1. At start-up model.py allocates feature_cache.py and has warm_up.py compile the kernels. Where
   relevance may come from CLIP it also loads CLIP's part (relevance/checkpoint.py), by itself,
   whatever loader vLLM takes for the model. When vLLM profiles memory it encodes dummies, and one
   of them is pruned as well, as many times as a step has room for it: so selection is in the
   profile. The start-up ends where a layout is not the model's, CLIP is not the checkpoint's, or
   tensor-parallel ranks keep different rows (ranks.py).
2. Every step, encoder_work.py says how much of the scheduler's budget of encoder work an item is:
   its visual tokens before pruning. So a step encodes as much as stock vLLM would let in.
3. model.py, `embed_multimodal`: wire.py unpacks what to do with each item of the step. One that is
   left whole goes to stock vLLM; the others are encoded one by one, or come from the feature
   cache, as an `EncodedImage` (encoded_image.py).
4. Then selector.py takes all of them. It scores the visual tokens of each against its query
   (relevance/) and has the modes of the plans choose exactly as many as there are placeholders
   (pruning/, kernels/): one call of the kernels for the images whose plans differ in no more than
   the query and the number of tokens.
5. model.py returns the kept rows. In M-RoPE models each carries its coordinates to where vLLM
   computes the prompt's positions (families/mrope.py).
6. timers.py has measured encoder and selection on the device; extension.py hands the figures over
   when the API process asks.
"""
