"""Where the command ``segone`` begins: all else is loaded where Ctrl-C is already heard."""

import sys


def main() -> int:
    """Run the command line, and return its exit status (`segone_napari.cli.main`)."""
    try:
        from segone_napari import cli

        return cli.main()
    except KeyboardInterrupt:
        print("\nsegone: stopped before it began", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
