"""`python -m align`, and what launchers start in each process."""

from align.cli import main

if __name__ == "__main__":
    main()
