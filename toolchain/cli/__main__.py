"""python -m toolchain.cli is the command jettison."""

from toolchain.cli import main

main()
