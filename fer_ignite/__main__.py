"""``python -m fer_ignite`` is the program ``fer-ignite``."""

from fer_ignite.cli.main import main

if __name__ == "__main__":
    main()
