"""`python -m pochitrain` is `pochi`."""

from pochitrain.cli import main

if __name__ == "__main__":
    main()
