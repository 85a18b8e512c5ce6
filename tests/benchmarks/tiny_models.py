"""Ten training programs cut down to at most 10 ms a step, where the host is the limit."""

from __future__ import annotations

import programs

if __name__ == "__main__":
    raise SystemExit(programs.main(__doc__, programs.PROGRAMS, seconds=3))
