"""`python -m scriven`: the same as `scriven`."""

from scriven.cli import main

if __name__ == "__main__":
    main()
