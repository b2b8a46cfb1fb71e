"""The command `antiphon`."""


def main() -> None:
    """Handles signals first, then imports the commands."""
    from antiphon.cli import interrupt
    from antiphon.runtime.openmp import let_idle_threads_sleep

    interrupt.install()
    let_idle_threads_sleep()  # with --no-ray, torch runs in this process
    try:
        from antiphon.cli.app import run

        run()
    finally:  # typer has turned the interruption into an exit, which libraries could hold up
        interrupt.finish_if_interrupted()
