"""`python -m pipeline` is `recurra`."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
