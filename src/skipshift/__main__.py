"""`python -m skipshift` is the command line."""

from skipshift.cli.main import main

main()
