"""`python -m exptilt`, and `torchrun ... -m exptilt`."""

from exptilt.cli import main

if __name__ == "__main__":
    main()
