"""The command `antiphon`."""


def main() -> None:
    """Handles signals first, then imports the commands."""
    from antiphon.client.cli import interrupt

    interrupt.install()
    try:
        from antiphon.client.cli.app import run

        run()
    finally:  # typer has turned the interruption into an exit, which libraries could hold up
        interrupt.finish_if_interrupted()
