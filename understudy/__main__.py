"""`python -m understudy`: the command line, where `understudy` is not on the path."""

from understudy.cli import main

main(prog_name="understudy")
