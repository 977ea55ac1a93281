"""``python -m fer_ignite`` runs the command line."""

from fer_ignite.cli.main import main

if __name__ == "__main__":
    main()
