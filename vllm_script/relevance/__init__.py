"""Where relevance comes from.

`source` decides, `windows` cuts the query, `checkpoint` reads CLIP's weights and names them, `clip`
scores; `polarity` measures the sign. `lm_attention` scores by the language model's first layer. Its
input embeddings alone need no code of their own here: see worker/selector.py.
"""
