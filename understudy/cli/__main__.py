"""`python -m understudy.cli`: the command line, where `understudy` is not on the path."""

from understudy.cli import main

if __name__ == "__main__":
    main(prog_name="understudy")
