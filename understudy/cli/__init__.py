"""`understudy`: the command line. Its commands are clients of the services, as any other tool could be.

One file per noun in ``commands``; ``root`` finds them by name without importing them, so that `understudy --help` answers at once.
What a reader would get wrong: results go to standard output and nothing else does; progress, notes and errors go to standard error.
"""

from understudy.cli.root import main

__all__ = ["main"]
