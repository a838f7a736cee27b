"""`python -m align`, and what launchers start in each process."""

from align.cli.app import main

if __name__ == "__main__":
    main()
