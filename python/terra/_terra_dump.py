"""Entry point of the `terra-dump` script: the executable lies inside the package."""

import os
import pathlib
import sys


def main() -> None:
    executable = pathlib.Path(__file__).parent / "bin" / "terra-dump"
    if not executable.exists():
        sys.exit("terra-dump: this installation of terra was built without the executable")
    os.execv(executable, [str(executable), *sys.argv[1:]])


if __name__ == "__main__":
    main()
