"""How chunks are run: inline (tests, debugging), Ray on this machine, or a Ray cluster. ``executor`` is the port; Ray is imported only in
``ray_executor``."""
