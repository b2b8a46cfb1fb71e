"""`python -m antiphon` is the command `antiphon`."""

from antiphon.client.cli import main

main()
