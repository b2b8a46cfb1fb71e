"""Commands of tests that are forked off one process: each gets its own answer."""

import forked_commands
import pytest

NOTHING = ("json",)


def test_a_command_that_was_not_waited_for_harms_no_other() -> None:
    """Its end would be taken for that of the next one."""
    with (
        pytest.raises(ZeroDivisionError),
        forked_commands.started("import time\ntime.sleep(60)", imported=NOTHING),
    ):
        raise ZeroDivisionError
    done = forked_commands.run("import sys\nprint(sys.argv)\nsys.exit(3)", "x", imported=NOTHING)
    assert (done.returncode, done.stdout.strip()) == (3, "['-c', 'x']")
