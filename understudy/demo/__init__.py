"""`make demo`: the whole job on footage that it renders, measured against the exact truth.

Two heads are rendered: one performs as src, the other as dst. The first with the second's pose, expression and light is the truth that a
perfect swap would give; the report says how near the swap came, compared with leaving dst untouched.
"""
