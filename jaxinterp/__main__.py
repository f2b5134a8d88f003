"""`python -m jaxinterp` is the command `jaxinterp`."""

from jaxinterp.app.cli import main

if __name__ == "__main__":
    main()
