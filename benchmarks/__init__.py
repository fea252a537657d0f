"""graced beside a bare fork loop, and beside its peers: figures, as ratios.

``python -m benchmarks`` measures everything, ``python -m benchmarks start kill`` some rows,
``--list`` names them. Absolute times say little on a shared machine, so every row runs its
contenders in turn, and what counts is the ratio of their medians.

`rows_*.py` are what is measured, `stage.py` is how, `contenders.py` is who, `programs/` is what
they run.
"""
