"""`python -m longcase` is the command `longcase`."""

from longcase.cli.main import main

if __name__ == "__main__":
    main()
