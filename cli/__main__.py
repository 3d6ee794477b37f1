"""`python -m cli` is the `headstart` command."""

from cli.main import main

if __name__ == "__main__":
    main()
