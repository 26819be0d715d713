"""`python -m evenhand`: the command, for launchers that start a module on every rank."""

from evenhand.cli.main import run

if __name__ == "__main__":
    run()
