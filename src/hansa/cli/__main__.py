"""`python -m hansa.cli`: the command line where no script is on the path."""

from hansa.cli import main

main()
