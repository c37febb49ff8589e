"""Where relevance comes from: `source` decides, `windows` cuts the query, `clip` scores with CLIP,
whose weights `checkpoint` reads and names.

The other source, the language model's input embeddings, needs no code of its own here: see
worker/selector.py.
"""
