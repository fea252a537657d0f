"""The command `my-app`: graced's command line, under this project's name."""

from graced import command

from my_app import __version__


def main() -> None:
    """Run one command, and exit with its status."""
    command(prog="my-app", version=__version__)


if __name__ == "__main__":
    main()
