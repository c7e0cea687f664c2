"""`python -m slivit ...`: the same as the console script `slivit`."""

from slivit.cli import main

main()
