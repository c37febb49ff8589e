"""Parts of `vllm-script tune`: which pruning costs no more accuracy than somebody accepts."""
