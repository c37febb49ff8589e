"""Where relevance comes from.

`source` decides, `windows` cuts the query, `checkpoint` reads CLIP's weights and names them, `clip`
scores. The other source, the language model's input embeddings, needs no code of its own here: see
worker/selector.py.
"""
